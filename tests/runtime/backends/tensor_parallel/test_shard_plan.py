"""What each rank gets of an adapter: computed apart, the parts make up the whole. And what is
refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lora_runtime import BaseModel, BaseModelError, Engine, EngineConfig
from lora_runtime.kernels import select
from lora_runtime.kernels.lora import add_lora_reference
from lora_runtime.kernels.updates import ModuleDelta, UpdateSegment, update_linear
from lora_runtime.model.step_context import StepContext
from lora_runtime.modules import BaseModule, ModuleKind

from ....support.models import save_base

pytest.importorskip(
    "transformers.distributed.parallel_utils", reason="tensor parallel needs transformers 5.20"
)

from lora_runtime.backends.tensor_parallel.shard_plan import (
    ShardPlan,
    bounds,
    check_modules,
    plan_of,
)
from lora_runtime.backends.tensor_parallel.styles import attach_linear, check_reached

INPUTS, OUTPUTS, ROWS = 11, 13, 7
MODULE = BaseModule(ModuleKind.LINEAR, INPUTS, OUTPUTS, True)
KINDS: dict[str, Callable[[], dict[str, Any]]] = {
    "lora": lambda: {"a": torch.randn(3, INPUTS), "b": torch.randn(OUTPUTS, 3), "scaling": 0.7},
    "dora": lambda: KINDS["lora"]() | {"gain": torch.randn(OUTPUTS)},
    "bias": lambda: KINDS["dora"]() | {"bias": torch.randn(OUTPUTS)},
    "saved": lambda: {"dense": torch.randn(OUTPUTS, INPUTS), "bias": torch.randn(OUTPUTS)},
    "saved with lora": lambda: KINDS["saved"]() | KINDS["lora"](),
    "only a bias": lambda: {"bias": torch.randn(OUTPUTS)},
}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("world", [2, 3, 8])
@pytest.mark.parametrize("style", ["colwise", "rowwise"])
def test_parts_make_up_the_whole(style: str, world: int) -> None:
    """Every kind on rows of its own, and all of them together with weights on the last rows."""
    plan = ShardPlan(world, {"layers.*.proj": style})
    weight, bias, x = torch.randn(OUTPUTS, INPUTS), torch.randn(OUTPUTS), torch.randn(ROWS, INPUTS)
    deltas = [ModuleDelta(ModuleKind.LINEAR, OUTPUTS, **make()) for make in KINDS.values()]

    def updated(
        y: torch.Tensor,
        rows: torch.Tensor,
        base_bias: torch.Tensor | None,
        parts: list[ModuleDelta],
    ) -> torch.Tensor:
        segments = [UpdateSegment(i, i + 1, d, 1.0) for i, d in enumerate(parts)]
        segments += [UpdateSegment(6, 7, d, 0.3 - 0.2 * i) for i, d in enumerate(parts)]
        return update_linear(y, rows, segments, base_bias, add_lora_reference)

    whole = updated(x @ weight.t() + bias, x, bias, deltas)
    parts = []
    for rank in range(world):
        shards = [plan.shard(d, "layers.5.proj", MODULE, rank) for d in deltas]
        if style == "colwise":
            start, end = bounds(OUTPUTS, rank, world)
            parts.append(
                updated(x @ weight[start:end].t() + bias[start:end], x, bias[start:end], shards)
            )
        else:
            start, end = bounds(INPUTS, rank, world)
            parts.append(
                updated(x[:, start:end] @ weight[:, start:end].t(), x[:, start:end], None, shards)
            )
    together = torch.cat(parts, 1) if style == "colwise" else torch.stack(parts).sum(0) + bias
    assert torch.allclose(together, whole, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(whole, x @ weight.t() + bias, atol=1e-2)


def test_a_part_is_memory_of_its_own_and_the_whole_stays_shared() -> None:
    delta = ModuleDelta(ModuleKind.LINEAR, OUTPUTS, **KINDS["saved with lora"]())
    plan = ShardPlan(2, {"q": "colwise", "o": "rowwise"})
    for name in ("q", "o"):
        part = plan.shard(delta, name, MODULE, 0)
        for tensor in (part.b if name == "q" else part.a, part.dense):
            assert tensor is not None
            assert tensor.untyped_storage().nbytes() == tensor.nbytes, name
    assert plan.shard(delta, "elsewhere", MODULE, 1) is delta


@pytest.mark.parametrize(
    ("architecture", "world", "says"),
    [
        ("llama", 3, "num_attention_heads 4 cannot be split over 3"),
        ("llama", 4, "num_key_value_heads 2 cannot be split over 4"),
        ("gpt2", 2, "no plan to split GPT2LMHeadModel"),
    ],
)
def test_bases_that_cannot_be_split(
    tmp_path: Path, architecture: str, world: int, says: str
) -> None:
    with pytest.raises(BaseModelError, match=says):
        plan_of(save_base(tmp_path, architecture), world)


def test_a_quantised_base(tmp_path: Path) -> None:
    base = save_base(tmp_path)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(
        json.dumps(config | {"quantization_config": {"quant_method": "awq"}})
    )
    with pytest.raises(BaseModelError, match="a quantised base"):
        plan_of(base, 2)


def test_ways_to_split_that_adapters_do_not_follow() -> None:
    head = {"lm_head": BaseModule(ModuleKind.LM_HEAD, 4, 4, False)}
    with pytest.raises(BaseModelError, match="lm_head is a lm_head, whose outputs"):
        check_modules(ShardPlan(2, {"lm_head": "colwise"}), head)


def test_a_row_parallel_module_that_no_style_of_ours_runs() -> None:
    """transformers' plan was not followed: adapters would change nothing there."""
    model = torch.nn.Sequential(torch.nn.Linear(4, 6))
    state = StepContext(select(torch.device("cpu")))
    attach_linear(ShardPlan(2, {"0": "rowwise"}), 0, "0", model[0], state)
    state.dry_rows = 3
    model(torch.zeros(1, 3, 4))
    with pytest.raises(BaseModelError, match="0 is not split as the plan says"):
        check_reached(model)


def test_a_module_of_other_widths_than_the_plan_s() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 6))
    state = StepContext(select(torch.device("cpu")))
    attach_linear(ShardPlan(2, {"0": "colwise"}), 0, "0", model[0], state)
    state.dry_rows = 3
    with pytest.raises(BaseModelError, match="0 maps 4 to 6 on this rank, the plan has"):
        model(torch.zeros(1, 3, 4))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"kernels": "triton"}, "kernels triton does not go with tensor_parallel"),
        ({"weights": "int8"}, "weights int8 does not go with tensor_parallel"),
        (
            {"attention_route": "flashinfer"},
            "attention flashinfer does not go with tensor_parallel",
        ),
        ({"compile": "elementwise"}, "compile elementwise does not go with tensor_parallel"),
        ({"device": "cuda:1"}, "cuda:1 cannot be chosen"),
    ],
    ids=str,
)
def test_settings_that_do_not_go_together(
    tiny_base: Path, settings: dict[str, Any], says: str
) -> None:
    with pytest.raises(BaseModelError, match=says):
        BaseModel.load(tiny_base, tensor_parallel=2, **{"device": "cpu"} | settings)


def test_a_process_that_is_in_a_group_of_its_own(tiny_base: Path, tmp_path: Path) -> None:
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1
    )
    try:
        with pytest.raises(BaseModelError, match=r"in a torch\.distributed group already"):
            BaseModel.load(tiny_base, device="cpu", tensor_parallel=2)
    finally:
        torch.distributed.destroy_process_group()


def test_where_the_base_is_not(tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match="is not a directory"):
        BaseModel.load(tmp_path / "nowhere", device="cpu", tensor_parallel=2)


def test_the_setting_is_the_base_s(tiny_base: Path) -> None:
    with pytest.raises(ValueError, match="tensor_parallel are the "):
        Engine(BaseModel.load(tiny_base), EngineConfig(tensor_parallel=2))
    with pytest.raises(ValueError, match="tensor_parallel must be at least 1"):
        EngineConfig(tensor_parallel=0)
