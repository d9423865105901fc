"""A small program of every op that adapters change against the torch reference, on random changes
and mixtures."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import nn

from lora_runtime.backends.cpp.runner import CppRunner
from lora_runtime.kernels.cpu import adapter as cpu_adapter
from lora_runtime.kernels.cpu import build, library, program
from lora_runtime.kernels.cpu.adapter import CpuAdapter
from lora_runtime.kernels.cpu.program import LOGITS, Activation, LinearPart, NormWeights, Program
from lora_runtime.kernels.cpu.weights import PackedLinear, pack_linear, unpack_rows
from lora_runtime.kernels.lora import add_lora_reference
from lora_runtime.kernels.updates import (
    ModuleDelta,
    UpdateSegment,
    update_embedding,
    update_linear,
    update_norm,
)
from lora_runtime.modules import ModuleKind

from ...support.updates import POSITIONS, Row, run

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2}
CASES = pytest.mark.parametrize(
    ("dtype", "int8"),
    [(torch.float32, False), (torch.bfloat16, False), (torch.bfloat16, True)],
    ids=str,
)
ADDED, SCALE = 70, 2.0  # more than a panel of outputs


class _Net:
    """embedding → norm → two linears side by side → activation → linear into the sum → norm →
    lm_head."""

    def __init__(self, g: torch.Generator, dtype: torch.dtype, int8: bool) -> None:
        self.dtype = dtype
        self.vocab, self.width, self.inner = (
            2 * int(torch.randint(20, 80, (), generator=g)) for _ in range(3)
        )
        shapes = {
            "embed": (self.vocab, self.width),
            "gate": (self.inner, self.width),
            "up": (self.inner, self.width),
            "down": (self.width, self.inner),
            "head": (self.vocab, self.width),
        }
        self.rows = {name: index for index, name in enumerate([*shapes, "first", "last"])}
        weights = {
            n: (torch.randn(s, generator=g) / s[1] ** 0.5).to(dtype) for n, s in shapes.items()
        }
        self.bias = {
            n: torch.randn(shapes[n][0], generator=g) if n != "gate" else None for n in shapes
        }
        self.norms = {n: torch.rand(self.width, generator=g) + 0.5 for n in ("first", "last")}
        self.packed = {
            n: pack_linear(library.load(), w, self.bias[n], int8) for n, w in weights.items()
        }
        self.weights = {
            n: unpack_rows(library.load(), p, 0, p.n, dtype) for n, p in self.packed.items()
        }
        self.program = self._program()

    def _program(self) -> Program:
        p = Program(self.dtype)
        hidden, wide = p.buffer(self.width, floats=True), p.buffer(2 * self.inner, floats=True)
        normed, inner = p.buffer(self.width), p.buffer(self.inner)
        sampled, last = (
            p.buffer(self.width, floats=True, sampled=True),
            p.buffer(self.width, sampled=True),
        )
        p.embed(
            hidden, rows=None, tied=self.packed["embed"], scale=SCALE, module=self.rows["embed"]
        )
        p.norm(hidden, self.width, normed, self._norm("first"))
        p.linear("gate_up", normed, wide, [self._part("gate", 0), self._part("up", self.inner)])
        p.activate(Activation.SILU, wide, 0, self.inner, self.inner, inner)
        p.linear("down", inner, hidden, [self._part("down", 0)], add=True)
        p.gather(hidden, sampled)
        p.norm(sampled, self.width, last, self._norm("last"))
        p.linear("lm_head", last, LOGITS, [self._part("head", 0)])
        p.argmax(None, ADDED)
        return p

    def _part(self, name: str, column: int) -> LinearPart:
        return LinearPart(self.packed[name], self.rows[name], column)

    def _norm(self, name: str) -> NormWeights:
        return NormWeights(self.norms[name], None, 1e-5, True, self.rows[name])

    def runner(self) -> CppRunner:
        return CppRunner(self.program, [], 64, 16, self.vocab + ADDED, threading.Lock())

    def reference(self, row: Row, deltas: dict[int, dict[str, ModuleDelta]]) -> torch.Tensor:
        """Logits of all of the row's tokens, with roundings where the program has them."""
        tokens = torch.tensor(row.tokens)
        applied = {
            n: [
                UpdateSegment(0, len(tokens), _floats(deltas[id(a)][n]), weight)
                for a, weight in row.adapters
                if n in deltas[id(a)]
            ]
            for n in self.rows
        }
        embed = self.weights["embed"]
        known = (tokens < self.vocab)[:, None] * embed[tokens.clamp(max=self.vocab - 1)]
        hidden = update_embedding(SCALE * known, tokens, applied["embed"], SCALE)
        normed = self._normed(hidden, applied, "first")
        gate, up = (self._product(normed, applied, name) for name in ("gate", "up"))
        hidden = hidden + self._product(
            (nn.functional.silu(gate) * up).to(self.dtype).float(), applied, "down"
        )
        logits = self._product(self._normed(hidden, applied, "last"), applied, "head")
        missing = logits.new_full((len(tokens), self.vocab + ADDED - logits.shape[1]), -torch.inf)
        return torch.cat([logits, missing], 1)

    def _normed(
        self, x: torch.Tensor, applied: dict[str, list[UpdateSegment]], name: str
    ) -> torch.Tensor:
        norm = nn.RMSNorm(self.width, 1e-5).requires_grad_(False)
        norm.weight.copy_(self.norms[name])
        return update_norm(norm(x), x, applied[name], norm, 0).to(self.dtype).float()

    def _product(
        self, x: torch.Tensor, applied: dict[str, list[UpdateSegment]], name: str
    ) -> torch.Tensor:
        y = nn.functional.linear(x, self.weights[name], self.bias[name])
        return (
            update_linear(y, x, applied[name], self.bias[name], add_lora_reference)
            if applied[name]
            else y
        )

    def random_deltas(self, g: torch.Generator) -> dict[str, ModuleDelta]:
        """Half of the modules in one of many ways; added tokens, or fewer, in embedding and lm_head
        together."""
        least = max(-ADDED, min(0, 5 - self.vocab))
        added = int(torch.randint(least, ADDED + 1, (), generator=g)) if _coin(g) else 0
        return {
            name: self._delta(g, name, added)
            for name in self.rows
            if _coin(g) or (added > 0 and name in ("embed", "head"))
        }

    def _delta(self, g: torch.Generator, name: str, added: int) -> ModuleDelta:
        if name in self.norms:
            return ModuleDelta(
                ModuleKind.NORM, self.width, dense=0.3 * torch.randn(self.width, generator=g)
            )
        rows, columns = self.weights[name].shape
        kind = {"embed": ModuleKind.EMBEDDING, "head": ModuleKind.LM_HEAD}.get(
            name, ModuleKind.LINEAR
        )
        if kind is ModuleKind.LINEAR:
            added = 0
        rank, out = int(torch.randint(1, 20, (), generator=g)), rows + added
        parts: dict[str, Any] = {}
        if _coin(g):
            first, second = (out, columns) if kind is ModuleKind.EMBEDDING else (columns, out)
            a = torch.randn(
                (first, rank) if kind is ModuleKind.EMBEDDING else (rank, first), generator=g
            )
            parts |= {
                "a": (a / columns**0.5).to(self.dtype),
                "b": (torch.randn(second, rank, generator=g) / rank).to(self.dtype),
                "scaling": 0.7,
            }
        if added > 0 or _coin(g):
            parts["dense"] = (torch.randn(out, columns, generator=g) / columns**0.5).to(self.dtype)
        elif _coin(g):
            parts["gain"] = 0.4 * torch.randn(
                columns if kind is ModuleKind.EMBEDDING else rows, generator=g
            )
        if kind is not ModuleKind.EMBEDDING and _coin(g):
            parts["bias"] = torch.randn(out, generator=g)
        if kind is not ModuleKind.LINEAR and _coin(g):
            ids = torch.randperm(min(rows, out), generator=g)[:5].sort().values.to(torch.int32)
            parts |= {"token_ids": ids, "token_rows": 0.2 * torch.randn(5, columns, generator=g)}
        return ModuleDelta(kind, out, **parts)


def _floats(delta: ModuleDelta) -> ModuleDelta:
    return delta.map(lambda t: t.float() if t.is_floating_point() else t)


def _coin(g: torch.Generator) -> bool:
    return bool(torch.rand((), generator=g) < 0.5)


def _mixture(net: _Net, g: torch.Generator) -> tuple[list[Row], dict[int, dict[str, ModuleDelta]]]:
    """Rows with none to three of six adapters; those tokens alone that one of them has."""
    adapters, deltas = [], {}
    for _ in range(6):
        changes = net.random_deltas(g)
        adapters.append(CpuAdapter(changes, net.rows))
        deltas[id(adapters[-1])] = changes
    rows = []
    for count in (0, 1, 1, 2, 3, 1, 0, 2):
        own = [adapters[i] for i in torch.randperm(6, generator=g)[:count].tolist()]
        vocab = max(
            [net.vocab, *(deltas[id(a)]["head"].out for a in own if "head" in deltas[id(a)])]
        )
        tokens = torch.randint(
            vocab, (int(torch.randint(6, 30, (), generator=g)),), generator=g
        ).tolist()
        rows.append(
            Row(
                tokens,
                [(a, 1.0 if count == 1 else float(torch.randn((), generator=g))) for a in own],
            )
        )
    return rows, deltas


@CASES
@pytest.mark.parametrize("seed", range(12))
def test_a_mixture_equals_the_reference(seed: int, dtype: torch.dtype, int8: bool) -> None:
    g = torch.Generator().manual_seed(seed)
    net = _Net(g, dtype, int8)
    rows, deltas = _mixture(net, g)
    for row, logits in zip(rows, run(net.runner(), rows), strict=True):
        expected = net.reference(row, deltas)[-POSITIONS:]
        assert torch.equal(logits == -torch.inf, expected == -torch.inf)
        scale = float(expected[expected.isfinite()].abs().max())
        torch.testing.assert_close(
            logits, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype] * scale
        )


@CASES
@pytest.mark.parametrize("target", build.TARGETS)
def test_a_row_does_not_depend_on_its_neighbours(
    target: str, dtype: torch.dtype, int8: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit, on every target that runs here: compilers may fuse sums and products
    differently."""
    runnable = list(build.TARGETS)[list(build.TARGETS).index(build.host_target()) :]
    if target not in runnable:
        pytest.skip(f"this processor cannot run {target}")
    for module in (program, cpu_adapter):
        monkeypatch.setattr(module, "load", lambda: library.load(target))
    g = torch.Generator().manual_seed(3)
    net = _Net(g, dtype, int8)
    rows, _ = _mixture(net, g)
    together = run(net.runner(), rows)
    for row, logits in zip(rows, together, strict=True):
        assert torch.equal(run(net.runner(), [row])[0], logits)


def test_what_is_replaced_cannot_break_its_place() -> None:
    """A product of the base that is not finite does not reach rows whose adapters replace it."""
    net = _Net(torch.Generator().manual_seed(0), torch.float32, False)
    broken = PackedLinear(
        net.packed["down"].weight.fill_(torch.inf), None, net.bias["down"], net.width, net.inner
    )
    assert broken.weight.isinf().all()
    saved = ModuleDelta(ModuleKind.LINEAR, net.width, dense=torch.ones(net.width, net.inner))
    adapter = CpuAdapter({"down": saved}, net.rows)
    fine, bad = run(net.runner(), [Row([1, 2, 3, 4, 5], [(adapter, 1.0)]), Row([1, 2, 3, 4, 5])])
    assert fine[:, : net.vocab].isfinite().all()
    assert bad[:, : net.vocab].isnan().any()
