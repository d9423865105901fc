"""A quarter of a minute of reloads, evictions and aborts from many threads:
benchmarks/adapter_life/storm on the tiny base."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.adapter_life.storm.answers import Answers, collect, pairs_of
from benchmarks.adapter_life.storm.clients import Cast
from benchmarks.adapter_life.storm.run import run_storm, show
from lora_runtime import Engine

SECONDS = 15
SLOTS = 8
HOSTED = 6
PROMPTS = [[1, 2, 3], [*range(30)], [*range(20), 7, *range(20, 40)], [*range(70)]]


def write_contents(template: Path, root: Path, count: int) -> list[Path]:
    """Adapters of the template's shape with other values: faster than PEFT, which has written the
    template."""
    shapes = load_file(template / "adapter_model.safetensors")
    config = json.loads((template / "adapter_config.json").read_text())
    for i in range(count):
        generator = torch.Generator().manual_seed(i)
        tensors = {
            n: torch.randn(t.shape, generator=generator) * 0.15 for n, t in sorted(shapes.items())
        }
        (root / f"content-{i}").mkdir()
        save_file(tensors, root / f"content-{i}" / "adapter_model.safetensors")
        (root / f"content-{i}" / "adapter_config.json").write_text(json.dumps(config))
    return [root / f"content-{i}" for i in range(count)]


def make_cast(contents: list[Path]) -> Cast:
    plain, paired, fragile = contents[:60], contents[60:68], contents[68:72]
    return Cast(
        {f"plain-{i}": plain[i : i + 20] for i in range(34)},
        {f"paired-{i}": paired[2 * i : 2 * i + 2] for i in range(4)},
        {f"fragile-{i}": fragile[2 * i : 2 * i + 2] for i in range(2)},
    )


@pytest.mark.slow
def test_storm(
    make_engine: Callable[..., Engine], tiny_adapters: dict[str, Path], tmp_path: Path
) -> None:
    contents = write_contents(tiny_adapters["a3"], tmp_path, 72)
    cast = make_cast(contents)
    quiet = make_engine(max_adapters=len(contents), prefix_caching=False)
    num_bytes = quiet.load_adapter(contents[0], "size").num_bytes
    quiet.unload_adapter("size")
    answers = collect(quiet, contents, pairs_of(list(cast.paired.values())), PROMPTS)
    quiet.shutdown()
    assert answers.distinct > 0.9  # or wrong adapters would not show
    # 16 KV blocks: a few requests fill them, so that sequences are preempted too.
    engine = make_engine(
        max_adapters=SLOTS, adapter_host_bytes=HOSTED * num_bytes, kv_cache_bytes=16 * 16 * 768
    )
    report = run_storm(engine, cast, answers, SECONDS, threads=12)
    show(report)
    assert report.failures == []
    assert report.leaks == []
    assert report.checked_answers > 100
    assert report.preemptions > 0
    assert {"loaded", "evicted", "replaced", "unloaded"} <= report.movements.keys()


def test_a_wrong_answer_is_noticed() -> None:
    answers = Answers(((1,),), {((), 0): (5, 6, 7)})
    assert answers.problem([], 0, [5, 6], 2) == ""
    assert "instead of" in answers.problem([], 0, [5, 7], 2)
    assert "2 tokens" in answers.problem([], 0, [5, 6], 3)
    assert answers.problem([], 0, [5], None) == ""
