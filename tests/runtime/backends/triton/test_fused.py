"""Linear maps of one input become one: which they are, and that nothing else changes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from lora_runtime import BaseModelError
from lora_runtime.backends.triton import fused
from lora_runtime.backends.triton.fused import FusedLinears, InputRecorder
from lora_runtime.backends.triton.host_reads import HostReads
from lora_runtime.modules import BaseModule, ModuleKind

from ....support.backends import fused_of
from ....support.device_path import load_base
from ....support.models import save_base

WIDTH = 4
GROUPS = {
    "llama": [{"q_proj", "k_proj", "v_proj"}, {"o_proj"}, {"gate_proj", "up_proj"}, {"down_proj"}],
    "qwen3": [{"q_proj", "k_proj", "v_proj"}, {"o_proj"}, {"gate_proj", "up_proj"}, {"down_proj"}],
    "gemma3": [{"q_proj", "k_proj", "v_proj"}, {"o_proj"}, {"gate_proj", "up_proj"}, {"down_proj"}],
    "phi3": [{"qkv_proj"}, {"o_proj"}, {"gate_up_proj"}, {"down_proj"}],
    "gpt2": [{"c_attn"}, {"c_proj"}, {"c_fc"}, {"c_proj"}],
}


@pytest.mark.parametrize("architecture", GROUPS)
def test_groups_of_an_architecture(architecture: str, tmp_path: Path) -> None:
    base = load_base(save_base(tmp_path, architecture, layers=1), "reference")
    names = [name for linear in fused_of(base).linears for name in linear.names]
    leaves = [
        {name.rpartition(".")[2] for name in linear.names} for linear in fused_of(base).linears
    ]
    assert leaves == [*GROUPS[architecture], {"lm_head"}]
    assert sorted(names) == sorted(
        n for n, m in base.modules.items() if "linear" in m.kind or m.kind == "lm_head"
    )
    assert [linear.group.first for linear in fused_of(base).linears] == [
        names.index(linear.names[0]) for linear in fused_of(base).linears
    ]
    for linear in fused_of(base).linears:
        assert linear.group.outs == tuple(base.modules[name].out_features for name in linear.names)
        assert linear.group.in_features == base.modules[linear.names[0]].in_features
        assert linear.call.head == (linear.names == ("lm_head",))


def test_no_weight_is_there_twice(tmp_path: Path) -> None:
    base = load_base(save_base(tmp_path, "qwen2", layers=1), "reference")
    original = load_base(tmp_path, "reference").model.state_dict()
    for name, tensor in base.model.state_dict().items():
        assert torch.equal(tensor, original[name]), name
    several = [linear for linear in fused_of(base).linears if isinstance(linear, FusedLinears)]
    assert len(several) == 2
    for linear in several:
        weights = [base.model.get_submodule(name).weight for name in linear.names]
        assert {w.untyped_storage().data_ptr() for w in weights} == {
            linear.weight.untyped_storage().data_ptr()
        }
        assert sum(w.nbytes for w in weights) == linear.weight.nbytes
    assert fused_of(base).why_not_captured() == ""
    assert several[0].group.base_bias is not None
    assert several[1].group.base_bias is None


class Toy(nn.Module):
    """Calls its linear maps with the inputs that a test gives."""

    a: nn.Linear
    b: nn.Linear

    def __init__(self, names: str, order: str, shared: bool = False) -> None:
        super().__init__()
        self.order = order
        for name in names:
            setattr(self, name, nn.Linear(WIDTH, WIDTH, bias=False))
        if shared:
            self.b.weight = self.a.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        other, out = x * 2, x * 0
        for call in self.order.split():
            out = out + getattr(self, call[0])(other if call[1:] == "'" else x)
        return out


class Own(nn.Linear):
    """Might keep its weight in another form, as quantised ones do."""


def _groups(model: nn.Module) -> list[tuple[str, ...]]:
    modules = {
        n: BaseModule(ModuleKind.LINEAR, WIDTH, WIDTH, False) for n, m in model.named_modules() if n
    }
    with InputRecorder(model, modules) as recorder:
        model(torch.ones(1, 3, WIDTH))
    assert not any(m._forward_pre_hooks for m in model.modules())
    return recorder.groups()


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("a b c", [("a", "b", "c")]),
        ("c a b", [("c", "a", "b")]),
        ("a b' c", [("a",), ("b",), ("c",)]),
        ("a b c'", [("a", "b"), ("c",)]),
        (
            "a b a c",
            [("a",), ("b",), ("c",)],
        ),  # called twice: its rows may be others the second time
        ("a b", [("a", "b")]),  # one that is never called takes no adapters
        ("a a", [("a",)]),
    ],
)
def test_only_calls_in_a_row_with_one_tensor_are_fused(
    order: str, expected: list[tuple[str, ...]]
) -> None:
    assert _groups(Toy("abc", order)) == expected


def test_what_is_not_a_linear_of_its_own_stays_alone() -> None:
    assert _groups(Toy("ab", "a b", shared=True)) == [("a",), ("b",)]
    model = Toy("ab", "a b")
    model.b = Own(WIDTH, WIDTH, bias=False)
    assert _groups(model) == [("a",), ("b",)]
    model = Toy("ab", "a b")
    model.b.to(torch.bfloat16)
    model.b.forward = lambda input: input  # type: ignore[method-assign]
    assert _groups(model) == [("a",), ("b",)]


def test_what_takes_no_adapters_is_in_no_group() -> None:
    model = Toy("abc", "a b c")
    modules = {n: BaseModule(ModuleKind.LINEAR, WIDTH, WIDTH, False) for n in "ac"}
    modules["b"] = BaseModule(ModuleKind.LINEAR, WIDTH, WIDTH, False, refusal="calls it in parts")
    with InputRecorder(model, modules) as recorder:
        model(torch.ones(3, WIDTH))  # rows without a batch before them, as in some models
    assert recorder.groups() == [("a", "c")]


def test_a_call_with_another_input_is_an_error(tmp_path: Path) -> None:
    base = load_base(save_base(tmp_path, layers=1), "reference")
    attention = base.model.model.layers[0].self_attn
    x = torch.ones(1, 2, 64)
    attention.q_proj(x)
    with pytest.raises(RuntimeError, match=r"k_proj is called with another input than .*q_proj"):
        attention.k_proj(x.clone())


def test_a_fusion_that_computes_something_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stacked = fused._stacked
    monkeypatch.setattr(fused, "_stacked", lambda weights: stacked(weights).roll(1, 0))
    with pytest.raises(BaseModelError, match=r"logits differ by .* with fused projections"):
        load_base(save_base(tmp_path, layers=1), "reference")


@pytest.mark.parametrize(
    ("code", "found"),
    [
        (lambda x: x.sum().item(), "aten::item"),
        (lambda x: bool((x > 0).all()), "aten::is_nonzero"),
        (lambda x: int(x.argmax()), "aten::item"),
        (lambda x: x[x > 0], "aten::index.Tensor"),
        (lambda x: x.nonzero(), "aten::nonzero"),
        (lambda x: x[:, torch.zeros(2, dtype=torch.long)].softmax(-1).argmax(-1), None),
    ],
)
def test_reads_on_the_host_are_seen(
    code: Callable[[torch.Tensor], object], found: str | None
) -> None:
    with torch.inference_mode(), HostReads() as reads:
        code(torch.ones(3, 3))
    assert reads.found == ({found} if found else set())


def test_a_base_whose_angles_depend_on_the_batch_is_not_captured(tmp_path: Path) -> None:
    save_base(tmp_path, layers=1)
    config = json.loads((tmp_path / "config.json").read_text())
    config["rope_parameters"] = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    (tmp_path / "config.json").write_text(json.dumps(config))
    base = load_base(tmp_path, "reference")
    assert fused_of(base).host_reads
    assert "reads values on the host" in fused_of(base).why_not_captured()
