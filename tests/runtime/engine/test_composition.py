"""Several weighted adapters in one request, beside requests with one and with none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lora_runtime import (
    AdapterCapacityError,
    BaseModel,
    Engine,
    EngineConfig,
    InvalidRequestError,
    Request,
    SamplingParams,
    UnknownAdapterError,
    WeightedAdapter,
)

from ...support.device import PATHS
from ...support.reference import LogitsRecorder, PeftReference, relative_error

TOKENS = 8
SAMPLING = SamplingParams(max_new_tokens=TOKENS, ignore_eos=True)
PROMPTS = ["hi", "a prompt of more than one block of tokens, so that it is read in chunks"]
MIXES = {
    "a2+a5": (WeightedAdapter("a2", 0.7), WeightedAdapter("a5", -0.4)),
    "a2+a3+a7": (WeightedAdapter("a2"), WeightedAdapter("a3", 0.5), WeightedAdapter("a7", 0.25)),
    "a5*0.3": (WeightedAdapter("a5", 0.3),),
}


@pytest.mark.parametrize("kernels", PATHS)
def test_compositions_equal_pefts_concatenation(
    tiny_base: Path, tiny_adapters: dict[str, Path], kernels: str
) -> None:
    reference = PeftReference(tiny_base, tiny_adapters)
    for name, mix in MIXES.items():
        reference.add_composition(name.replace(".", "_"), [(a.adapter_id, a.weight) for a in mix])
    base = BaseModel.load(tiny_base, dtype="float32", **PATHS[kernels])
    config = EngineConfig(
        dtype="float32", kv_cache_bytes=8 << 20, max_running=16, max_batch_tokens=24, max_adapters=8
    )
    with Engine(base, config) as engine:
        for name, path in tiny_adapters.items():
            engine.load_adapter(path, name)
        recorder = LogitsRecorder(engine)
        handles = {}
        for p in PROMPTS:
            ids = tuple(base.tokenizer(p)["input_ids"])
            for name in ("", "a2", *MIXES):
                request = Request(
                    token_ids=ids,
                    sampling=SAMPLING,
                    request_id=f"{name}/{p}",
                    adapter_id="" if name in MIXES else name,
                    adapters=MIXES.get(name, ()),
                )
                handles[name, p, ids] = engine.submit(request)
        for (name, p, ids), handle in handles.items():
            done = handle.result()
            expected = reference.greedy(name.replace(".", "_"), ids, TOKENS)
            assert list(done.choices[0].token_ids) == expected.tokens, (name, p)
            assert relative_error(recorder.of(f"{name}/{p}"), expected.logits) < 1e-4, (name, p)
            assert [use.adapter_id for use in done.adapters] == (
                [a.adapter_id for a in MIXES[name]] if name in MIXES else [name] if name else []
            )


def test_prefixes_are_shared_only_by_the_same_composition(engine: Engine) -> None:
    def cached(*mix: WeightedAdapter) -> int:
        request = Request(prompt="x" * 100, adapters=mix, sampling=SAMPLING)
        return engine.generate(request).choices[0].usage.cached_tokens

    one, two = WeightedAdapter("a1", 0.5), WeightedAdapter("a2", 0.5)
    assert cached(one, two) == 0
    assert cached(one, two) > 0
    assert cached(one, WeightedAdapter("a2", 0.25)) == 0
    assert cached(one) == 0
    assert cached(WeightedAdapter("a1")) == 0
    engine.unload_adapter("a2")
    blocks = engine.stats().kv_blocks_cached
    engine.generate(
        Request(prompt="x", sampling=SAMPLING)
    )  # the engine thread forgets between steps
    assert engine.stats().kv_blocks_cached < blocks


@pytest.mark.parametrize(
    ("adapters", "message"),
    [
        ((WeightedAdapter("a1"), WeightedAdapter("a1", 2)), "named twice"),
        ((WeightedAdapter("a1", float("nan")),), "weights"),
        ((WeightedAdapter("a1", 101),), "weights"),
        ((WeightedAdapter(""),), "ids"),
        (tuple(WeightedAdapter(f"a{i}") for i in range(9)), "at most 8"),
    ],
)
def test_bad_compositions(
    engine: Engine, adapters: tuple[WeightedAdapter, ...], message: str
) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        engine.submit(Request(prompt="hi", adapters=adapters))
    assert engine.stats().leases == 0


def test_compositions_that_cannot_be_served(
    make_engine: Callable[..., Engine], tiny_adapters: dict[str, Path]
) -> None:
    engine = make_engine(max_adapters=1)
    for name in ("a0", "a1"):
        engine.load_adapter(tiny_adapters[name], name)
    engine.load_adapter(tiny_adapters["a0"], "copy")
    for names, error in (
        (("a0", "a1"), AdapterCapacityError),
        (("a0", "copy"), AdapterCapacityError),
        (("a0", "none"), UnknownAdapterError),
    ):
        with pytest.raises(error):
            engine.submit(Request(prompt="hi", adapters=tuple(WeightedAdapter(n) for n in names)))
    with pytest.raises(InvalidRequestError, match="one adapter or several, not both"):
        engine.submit(Request(prompt="hi", adapter_id="a0", adapters=(WeightedAdapter("a0"),)))
    assert engine.stats().leases == 0
