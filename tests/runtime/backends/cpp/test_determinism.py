"""With the C++ kernels a request's output does not depend on its neighbours: equal tokens,
bit-equal logprobs."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from lora_runtime import (
    BaseModel,
    Choice,
    Engine,
    EngineConfig,
    EngineFailedError,
    Request,
    SamplingParams,
    WeightedAdapter,
)

from ....support.adapters import edit_tensors, save_adapter
from ....support.backends import program_of
from ....support.models import save_base

REQUESTS = 32
SAMPLING = SamplingParams(max_new_tokens=12, ignore_eos=True, logprobs=3)


@pytest.fixture(
    scope="module",
    params=[("bfloat16", "auto"), ("bfloat16", "int8"), ("float32", "auto")],
    ids=str,
)
def engine(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Engine]:
    dtype, weights = request.param
    root = tmp_path_factory.mktemp("determinism")
    base_dir = save_base(root / "base")
    base = BaseModel.load(base_dir, device="cpu", dtype=dtype, weights=weights)
    assert program_of(base) is not None
    # Small steps: prompts are cut into chunks at other places in every run.
    config = EngineConfig(
        max_running=REQUESTS, max_batch_tokens=56, prefix_caching=False, kv_cache_bytes=64 << 20
    )
    with Engine(base, config) as engine:
        for i in range(5):
            engine.load_adapter(
                save_adapter(
                    base_dir,
                    root / f"a{i}",
                    seed=i,
                    r=(1, 4, 7, 16, 33)[i],
                    target_modules="all-linear",
                ),
                f"a{i}",
            )
        yield engine


def test_engines_that_share_a_base_do_not_disturb_each_other(tmp_path: Path) -> None:
    base = BaseModel.load(save_base(tmp_path / "base"), device="cpu", dtype="float32")
    config = EngineConfig(prefix_caching=False, kv_cache_bytes=8 << 20)
    requests = [
        Request(token_ids=r.token_ids, sampling=SAMPLING, request_id=r.request_id)
        for r in _requests()
    ]
    with Engine(base, config) as one, Engine(base, config) as two:
        expected = _run(one, requests)
        handles = [engine.submit(r) for r in requests for engine in (one, two)]
        for handle in handles:
            assert handle.result().choices[0].logprobs == expected[handle.request_id].logprobs


def test_a_request_whose_numbers_overflow_fails_alone(engine: Engine, tmp_path: Path) -> None:
    base_dir = save_base(tmp_path / "base")
    broken = save_adapter(base_dir, tmp_path / "broken", target_modules=["down_proj"])
    edit_tensors(broken, lambda tensors: {k: t * 1e30 for k, t in tensors.items()})
    engine.load_adapter(broken, "broken")
    requests = _requests()
    expected = _run(engine, requests)
    bad = engine.submit(Request(token_ids=(1, 2, 3), adapter_id="broken", sampling=SAMPLING))
    after = _run(engine, requests)  # beside it, and in the KV blocks that it leaves behind
    with pytest.raises(EngineFailedError, match="NaN"):
        bad.result()
    engine.unload_adapter("broken")
    assert {k: c.logprobs for k, c in after.items()} == {k: c.logprobs for k, c in expected.items()}


_ADAPTERS = [
    *(((WeightedAdapter(name),) if name else ()) for name in ("", "a0", "a1", "a2", "a3", "a4")),
    # Their rows lie side by side in every order: what they share becomes one segment, or not.
    *(
        (WeightedAdapter(first, 0.75), WeightedAdapter(second, 0.5))
        for first, second in (("a0", "a2"), ("a1", "a2"), ("a2", "a0"), ("a3", "a0"))
    ),
    (WeightedAdapter("a2", 0.5),),
    (WeightedAdapter("a0", 0.75), WeightedAdapter("a1", 0.3), WeightedAdapter("a2", 0.5)),
]


def _requests() -> list[Request]:
    g = random.Random(0)
    return [
        Request(
            token_ids=tuple(g.randrange(250) for _ in range(g.randrange(1, 90))),
            sampling=SAMPLING,
            adapters=g.choice(_ADAPTERS),
            request_id=str(i),
        )
        for i in range(REQUESTS)
    ]


def _run(engine: Engine, requests: list[Request]) -> dict[str, Choice]:
    handles = [engine.submit(r) for r in requests]
    return {h.request_id: h.result().choices[0] for h in handles}


def test_the_same_alone_together_and_shuffled(engine: Engine) -> None:
    requests = _requests()
    alone: dict[str, Choice] = {}
    for request in requests:
        alone |= _run(engine, [request])
    for seed in range(3):
        order = list(requests)
        if seed:
            random.Random(seed).shuffle(order)
        together = _run(engine, order)
        for key, expected in alone.items():
            assert together[key].token_ids == expected.token_ids, (seed, key)
            assert together[key].logprobs == expected.logprobs, (
                seed,
                key,
            )  # floats, compared exactly
    assert (
        len({c.token_ids for c in alone.values()}) > REQUESTS // 2
    )  # or the test would show little
