"""One id, several versions: canary, promotion, rollback."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from lora_runtime import (
    AdapterUnavailableError,
    Engine,
    InvalidRequestError,
    Request,
    SamplingParams,
)

from ....support.store import seed_canaries

SHORT = SamplingParams(max_new_tokens=4, ignore_eos=True)
ASK = Request(prompt="a prompt", adapter_id="x", sampling=SHORT)


@pytest.fixture
def engine(make_engine: Callable[..., Engine]) -> Engine:
    return make_engine(max_adapters=4, adapter_versions_kept=2)


def test_a_canary_takes_its_share(engine: Engine, tiny_adapters: dict[str, Path]) -> None:
    seed_canaries(engine, 7)
    stable = engine.load_adapter(tiny_adapters["a6"], "x").version
    info = engine.load_adapter(tiny_adapters["a7"], "x", canary_weight=0.25)
    assert info.version == stable
    assert info.canary is not None
    assert info.canary.weight == 0.25
    answers = [engine.generate(ASK) for _ in range(80)]
    counts = Counter(a.adapter_version for a in answers)
    assert set(counts) == {stable, info.canary.version}
    assert 8 <= counts[info.canary.version] <= 32
    # Each answer is that of the version it reports.
    texts = {(a.adapter_version, a.text) for a in answers}
    assert len(texts) == 2


def test_promoting_and_dropping_a_canary(engine: Engine, tiny_adapters: dict[str, Path]) -> None:
    stable = engine.load_adapter(tiny_adapters["a0"], "x").version
    canary = engine.load_adapter(tiny_adapters["a1"], "x", canary_weight=0.5).canary
    assert canary is not None
    assert engine.set_canary("x", 0.9).canary == type(canary)(canary.version, 0.9)
    info = engine.set_canary("x", 1)
    assert (info.version, info.canary, info.older_versions) == (canary.version, None, (stable,))
    engine.load_adapter(tiny_adapters["a2"], "x", canary_weight=0.5)
    assert engine.set_canary("x", 0).version == canary.version
    with pytest.raises(AdapterUnavailableError, match="no canary"):
        engine.set_canary("x", 0.5)
    for weight in (-0.1, 1.0, 2, float("nan")):
        with pytest.raises(InvalidRequestError, match="canary_weight"):
            engine.load_adapter(tiny_adapters["a2"], "x", canary_weight=weight)


def test_rollback(engine: Engine, tiny_adapters: dict[str, Path]) -> None:
    versions = [engine.load_adapter(tiny_adapters[f"a{i}"], "x").version for i in range(4)]
    assert engine.get_adapter("x").older_versions == (versions[2], versions[1])  # two are kept
    assert engine.stats().registered_adapters == 1
    assert engine.stats().adapters == 1  # replaced versions give their slots back
    assert engine.rollback_adapter("x").version == versions[2]
    assert engine.get_adapter("x").older_versions == (versions[3], versions[1])
    assert engine.generate(ASK).adapter_version == versions[2]
    assert engine.rollback_adapter("x", versions[1]).version == versions[1]
    for wanted, message in (("f" * 64, "no older version 'f"), (versions[0], "no older version")):
        with pytest.raises(AdapterUnavailableError, match=message):
            engine.rollback_adapter("x", wanted)
    engine.load_adapter(tiny_adapters["a5"], "y")
    with pytest.raises(AdapterUnavailableError, match="no older version"):
        engine.rollback_adapter("y")


def test_rollback_needs_its_source(
    make_engine: Callable[..., Engine], tiny_adapters: dict[str, Path], tmp_path: Path
) -> None:
    engine = make_engine(adapter_host_bytes=0)
    path = shutil.copytree(tiny_adapters["a0"], tmp_path / "adapter")
    engine.load_adapter(path, "x")
    new = engine.load_adapter(tiny_adapters["a1"], "x").version
    shutil.rmtree(path)
    with pytest.raises(AdapterUnavailableError, match="x"):
        engine.rollback_adapter("x")
    assert engine.generate(ASK).adapter_version == new


def test_a_dropped_canary_of_an_older_version_leaves_the_way_back(
    engine: Engine, tiny_adapters: dict[str, Path]
) -> None:
    first = engine.load_adapter(tiny_adapters["a0"], "x").version
    engine.load_adapter(tiny_adapters["a1"], "x")
    engine.load_adapter(tiny_adapters["a0"], "x", canary_weight=0.5)
    assert engine.set_canary("x", 0).older_versions == (first,)
    assert engine.rollback_adapter("x").version == first
    engine.unload_adapter("x")
    assert engine.stats().host_adapter_bytes == engine.stats().adapter_bytes == 0
