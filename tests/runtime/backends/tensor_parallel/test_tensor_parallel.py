"""A base over two processes against one: the same tokens, close logits, and no process left behind."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig

from lora_runtime import (
    BaseModel,
    BaseModelError,
    Engine,
    EngineConfig,
    EngineFailedError,
    EngineStoppedError,
    Request,
    SamplingParams,
    WeightedAdapter,
)

from ....support import models
from ....support.adapters import save_adapter
from ....support.models import VOCAB, save_base
from ....support.processes import is_alive, wait_until
from ....support.reference import LogitsRecorder, relative_error
from ....support.slow import slow_but

pytest.importorskip(
    "transformers.distributed.parallel_utils", reason="tensor parallel needs transformers 5.20"
)

from lora_runtime.backends.tensor_parallel import process as rank
from lora_runtime.backends.tensor_parallel.group import WorkerGroup

from ...engine.test_peft_formats import FORMATS, INVOCATION, MIX, NAMES, Names, token_ids

SAMPLING = SamplingParams(max_new_tokens=6, ignore_eos=True)
PROMPTS = [tuple(token_ids("a prompt of more than one block, FF")), tuple(token_ids("zzFF"))]
ARCHITECTURES = {
    # Biases behind the row-parallel sums; nothing but the heads can be halved.
    "uneven llama": Names("o_proj", "down_proj", "embed_tokens", "norm"),
    "qwen2": NAMES["qwen2"],
    "gemma3": NAMES["gemma3"],
}


@pytest.fixture(autouse=True)
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Followers come from a process that has imported everything: seconds less for each. The
    server's are spawned."""
    torch.multiprocessing.set_forkserver_preload(["lora_runtime.backends.tensor_parallel.worker"])
    monkeypatch.setattr(rank, "START_METHOD", "forkserver")


@pytest.fixture(autouse=True)
def uneven(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = models.SHAPE | {"vocab_size": VOCAB + 1, "intermediate_size": 97}
    monkeypatch.setitem(
        models.ARCHITECTURES,
        "uneven llama",
        lambda: LlamaConfig(**shape, attention_bias=True, mlp_bias=True),
    )


@dataclass
class Case:
    base: Path
    adapters: dict[str, Path]


@pytest.fixture(params=slow_but(["uneven llama"], ARCHITECTURES))
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Case:
    base, names = save_base(tmp_path / "base", request.param), ARCHITECTURES[request.param]
    made = {key: make(names) for key, make in FORMATS.items()} | {
        "activated": {
            "target_modules": [names.attention],
            "alora_invocation_tokens": token_ids(INVOCATION),
        },
        "added tokens": {"target_modules": [names.mlp], "added_tokens": 3},
        "dora everywhere": {
            "target_modules": ["q_proj", "o_proj", "down_proj", "lm_head"],
            "use_dora": True,
        },
        "bias everywhere": {"target_modules": "all-linear", "bias": "all"},
    }
    if request.param == "uneven llama":  # whose vocabulary is larger than its tokenizer's
        targets = [names.mlp, "lm_head", "embed_tokens"]
        made["fewer tokens"] = {"target_modules": targets, "use_dora": True, "added_tokens": -1}
    return Case(
        base,
        {
            key: save_adapter(
                base, tmp_path / key.replace(" ", "_"), seed=i, r=lora.pop("r", 4), **lora
            )
            for i, (key, lora) in enumerate(made.items())
        },
    )


def config(**changes: Any) -> EngineConfig:
    return EngineConfig(
        **{
            "device": "cpu",
            "dtype": "float32",
            "kernels": "torch",
            "kv_cache_bytes": 16 << 20,
            "max_running": 48,
            "max_batch_tokens": 48,
            "prefix_caching": False,
            "max_added_tokens": 4,
            **changes,
        }
    )


def answers(
    engine: Engine, adapters: dict[str, Path]
) -> dict[tuple[str, int], tuple[tuple[int, ...], torch.Tensor]]:
    """Tokens and logits of every adapter, the base and a composition on every prompt, in one batch,
    by name."""
    for key, path in adapters.items():
        engine.load_adapter(path, key)
    recorder, handles = LogitsRecorder(engine), {}
    mix = tuple(
        WeightedAdapter(key, weight)
        for key, weight in (*MIX, ("dora", 0.3), ("bias everywhere", -0.2))
    )
    for key in ("", "mix", *adapters):
        for i, prompt in enumerate(PROMPTS):
            handles[key, i] = engine.submit(
                Request(
                    token_ids=prompt,
                    adapter_id="" if key == "mix" else key,
                    adapters=mix if key == "mix" else (),
                    sampling=SAMPLING,
                    request_id=f"{key}/{i}",
                )
            )
    return {
        (key, i): (tuple(handle.result().choices[0].token_ids), recorder.of(f"{key}/{i}"))
        for (key, i), handle in handles.items()
    }


def group_of(engine: Engine) -> WorkerGroup:
    backend: Any = engine.base.backend  # the one of several processes
    assert backend.group is not None
    return backend.group


def test_every_format_in_one_batch_is_as_in_one_process(case: Case) -> None:
    with Engine(case.base, config()) as engine:
        expected = answers(engine, case.adapters)
        bytes_whole = engine.stats().adapter_bytes
        versions = {key: engine.get_adapter(key).version for key in case.adapters}
    assert (
        len({tuple(logits[0].tolist()) for (_, i), (_, logits) in expected.items() if i == 0})
        == len(expected) / 2
    )
    with Engine(case.base, config(tensor_parallel=2)) as engine:
        ranks = group_of(engine)
        assert torch.get_num_threads() == 1, "two ranks share two threads"
        actual = answers(engine, case.adapters)
        for key, (tokens, logits) in expected.items():
            assert actual[key][0] == tokens, key
            assert relative_error(actual[key][1], logits) < 1e-4, key
        # An adapter is what it is, however many ranks hold it; and no rank holds all of it.
        assert {key: engine.get_adapter(key).version for key in case.adapters} == versions
        assert engine.stats().adapter_bytes < bytes_whole
        assert ranks.held() == [(len(versions), len(versions), 1)]
        for name in case.adapters:
            engine.unload_adapter(name, timeout_s=10)
        wait_until(lambda: ranks.held() == [(0, 0, 1)])
        followers = ranks.processes
        assert all(map(is_alive, followers))
    assert len(followers) == 1
    assert not any(map(is_alive, followers))
    assert not torch.distributed.is_initialized()


@pytest.fixture
def engine(tiny_base: Path, tiny_adapters: dict[str, Path]) -> Iterator[Engine]:
    with Engine(tiny_base, config(tensor_parallel=2, kernels="auto", max_adapters=2)) as engine:
        for name, path in tiny_adapters.items():
            engine.load_adapter(path, name)
        yield engine


def test_adapters_take_turns_and_a_follower_that_dies_fails_the_engine(
    engine: Engine, tiny_base: Path, tiny_adapters: dict[str, Path]
) -> None:
    ranks = group_of(engine)
    with Engine(tiny_base, config()) as alone:
        for name, path in tiny_adapters.items():
            alone.load_adapter(path, name)
        requests = [
            Request(token_ids=PROMPTS[0], adapter_id=name, sampling=SAMPLING)
            for name in tiny_adapters
        ]
        expected = [alone.generate(r).choices[0].token_ids for r in requests]
    handles = [engine.submit(r) for r in requests]  # eight adapters, two slots
    assert [h.result().choices[0].token_ids for h in handles] == expected
    assert ranks.held() == [(8, 2, 1)]
    running = [
        engine.submit(
            Request(
                token_ids=PROMPTS[0],
                adapter_id=name,
                sampling=SamplingParams(max_new_tokens=400, ignore_eos=True),
            )
        )
        for name in ("a0", "")
    ]
    for handle in running:
        next(iter(handle))
    os.kill(ranks.processes[0], signal.SIGKILL)
    for handle in running:
        with pytest.raises(EngineFailedError):
            handle.result()
    assert not engine.healthy
    assert "rank 1 of 2 has ended: exit code -9" in str(engine.failure)
    with pytest.raises(EngineFailedError):
        engine.generate(requests[0])
    with pytest.raises(EngineFailedError, match="rank 1 of 2"):
        ranks.held()


@pytest.mark.slow
def test_engines_that_share_a_split_base(tiny_base: Path, tiny_adapters: dict[str, Path]) -> None:
    """Their steps take turns on all ranks alike, and the base outlives them."""
    base = BaseModel.load(tiny_base, device="cpu", dtype="float32", tensor_parallel=2)
    settings = config(kernels="auto")
    try:
        with Engine(base, settings) as one, Engine(base, settings) as other:
            for engine, name in ((one, "a1"), (other, "a2")):
                engine.load_adapter(tiny_adapters[name], "a")
            request = Request(
                token_ids=PROMPTS[0],
                adapter_id="a",
                sampling=SamplingParams(max_new_tokens=40, ignore_eos=True),
            )
            handles = [engine.submit(request) for engine in (one, other) for _ in range(2)]
            answers = [tuple(h.result().choices[0].token_ids) for h in handles]
            assert answers[0] == answers[1] != answers[2] == answers[3]
        with Engine(base, settings) as engine:
            engine.load_adapter(tiny_adapters["a2"], "a")
            assert tuple(engine.generate(request).choices[0].token_ids) == answers[2]
    finally:
        base.close()
    assert not torch.multiprocessing.active_children()


def test_a_follower_that_dies_fails_an_idle_engine(engine: Engine) -> None:
    os.kill(group_of(engine).processes[0], signal.SIGKILL)
    wait_until(lambda: not engine.healthy)
    assert "rank 1 of 2 has ended: exit code -9" in str(engine.failure)


def test_a_follower_that_fails_says_why(engine: Engine) -> None:
    group_of(engine).tell("what nobody has heard of")
    wait_until(lambda: not engine.healthy)
    assert "TypeError: rank 0 sent 'what nobody has heard of'" in str(engine.failure)


def test_a_follower_that_is_stopped_does_not_keep_a_shutdown(
    engine: Engine, tiny_base: Path, tmp_path: Path
) -> None:
    """Nor what hangs with it: a step, and an adapter's load."""
    (follower,) = group_of(engine).processes
    os.kill(follower, signal.SIGSTOP)
    handle = engine.submit(Request(prompt="x", sampling=SAMPLING))
    late = save_adapter(tiny_base, tmp_path / "late", seed=99)
    with ThreadPoolExecutor() as pool:
        load = pool.submit(engine.load_adapter, late, "late")
        wait_until(lambda: (step := engine.running_step()) and step.age_s > 0.5)
        assert engine.healthy
        assert engine.shutdown(join_s=0.1)  # the step has ended with its other part
        with pytest.raises(EngineStoppedError):
            handle.result()
        with pytest.raises(EngineFailedError, match="the base was closed"):
            load.result(timeout=30)
    assert not is_alive(follower)
    assert not torch.distributed.is_initialized()


def test_weights_are_as_split_while_a_forward_has_local_ones(engine: Engine) -> None:
    """transformers puts plain local tensors into a module for as long as its forward runs."""
    ranks, name = group_of(engine), "model.layers.0.self_attn.q_proj"
    expected = engine.base.backend.weights.rows(name, 0, 7)
    module = engine.base.model.get_submodule(name)
    split = module._parameters["weight"]
    module._parameters["weight"] = torch.nn.Parameter(split.to_local(), requires_grad=False)
    try:
        assert torch.equal(engine.base.backend.weights.rows(name, 0, 7), expected)
        assert ranks._own is not None
        assert ranks._own.dim(name) == 0
    finally:
        module._parameters["weight"] = split


def test_what_fails_on_this_rank_leaves_no_answer_for_the_next(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, name = engine.base.backend.weights, "model.layers.0.self_attn.q_proj"
    expected = weights.rows(name, 0, 7)

    def broken(*_: object) -> None:
        raise ValueError("not now")

    with monkeypatch.context() as patch:
        patch.setattr(group_of(engine)._own, "rows", broken)
        with pytest.raises(ValueError, match="not now"):
            weights.rows(name, 3, 5)
    assert torch.equal(weights.rows(name, 0, 7), expected)


def hold(base: Path, connection: Connection) -> None:
    """In a process of its own: load, say who follows, and wait."""
    with Engine(base, config(tensor_parallel=2)) as engine:
        connection.send(group_of(engine).processes)
        connection.recv()


@pytest.mark.slow
def test_followers_end_with_the_process_that_started_them(tiny_base: Path) -> None:
    context = torch.multiprocessing.get_context("forkserver")
    ours, theirs = context.Pipe()
    process = context.Process(target=hold, args=(tiny_base, theirs))
    process.start()
    followers = ours.recv()
    assert len(followers) == 1
    assert all(map(is_alive, followers))
    process.kill()  # without a word to anyone
    process.join()
    wait_until(lambda: not any(map(is_alive, followers)))


def test_a_base_that_is_not_there_for_all_leaves_no_process(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base")
    weights = base / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(BaseModelError, match="tensor_parallel"):
        BaseModel.load(base, device="cpu", tensor_parallel=2)
    assert not torch.distributed.is_initialized()
    assert not torch.multiprocessing.active_children()
