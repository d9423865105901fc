"""Fusion of linear maps that read the very same input: one GEMM and one LoRA update for all of them
(q/k/v, gate/up).

The dry run shows which they are; names are not read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from types import TracebackType
from typing import Any, Self

import torch
from torch import nn
from torch.nn import functional as F

from ...errors import BaseModelError
from ...kernels.slot_table import ModuleGroup
from ...model.hooks import rows_of
from ...model.quantised import is_quantised
from ...model.step_context import StepContext
from ...modules import BaseModule, ModuleKind
from .host_reads import HostReads
from .lora_step import LinearCall, LoraContext, LoraStep
from .placement import layer_of

_TOLERANCE = 0.05
"""Largest root-mean-square difference of logits, relative to their size: another GEMM rounds
bfloat16 less differently, a wrong weight makes more."""
_LINEAR_MAPS = (ModuleKind.LINEAR, ModuleKind.LM_HEAD)


class InputRecorder:
    """Recorder of the order in which a forward calls the linear maps, and with which tensors, while
    it is entered."""

    def __init__(self, model: nn.Module, modules: Mapping[str, BaseModule]) -> None:
        self._model = model
        self._names = [
            name for name, m in modules.items() if m.kind in _LINEAR_MAPS and not m.refusal
        ]
        # The tensors live on: no address is given out twice.
        self._calls: list[tuple[str, torch.Tensor]] = []
        self._handles: list[Any] = []

    def __enter__(self) -> Self:
        for name in self._names:

            def note(module: nn.Module, args: tuple[torch.Tensor, ...], name: str = name) -> None:
                self._calls.append((name, args[0]))

            self._handles.append(self._model.get_submodule(name).register_forward_pre_hook(note))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        for handle in self._handles:
            handle.remove()

    def groups(self) -> list[tuple[str, ...]]:
        """Groups of linear maps, each that takes adapters in one, in the order of the calls.

        A group of several: plain nn.Linears of one parent, called once each, one after the other,
        with one tensor.
        """
        calls, self._calls = self._calls, []
        counts = Counter(name for name, _ in calls)
        groups: list[list[str]] = []
        last: torch.Tensor | None = None
        for name, x in calls:
            if groups and x is last and self._stackable(name, groups[-1][-1], counts):
                groups[-1].append(name)
            elif [name] not in groups:
                groups.append([name])
            last = x if groups[-1][-1] == name else None
        return [tuple(group) for group in groups]

    def _stackable(self, name: str, before: str, counts: Counter[str]) -> bool:
        if (
            name.rpartition(".")[0] != before.rpartition(".")[0]
            or counts[name] != 1
            or counts[before] != 1
        ):
            return False
        one, other = self._model.get_submodule(before), self._model.get_submodule(name)
        # A subclass may keep its weight in a form of its own; a head's tied weight is the
        # embedding's too.
        return (
            type(one) is type(other) is nn.Linear
            and not (is_quantised(one) or is_quantised(other))
            and (
                self._own(one.weight)
                and self._own(other.weight)
                and one.weight.dtype == other.weight.dtype
            )
        )

    def _own(self, weight: torch.Tensor) -> bool:
        return (
            sum(p is weight for _, p in self._model.named_parameters(remove_duplicate=False)) == 1
        )


def fuse(
    model: nn.Module,
    modules: Mapping[str, BaseModule],
    context: StepContext,
    lora: LoraContext,
    run: Callable[[], torch.Tensor],
) -> tuple[list[FusedLinears | SingleLinear], list[str], float]:
    """Fuse what `run`, a small forward that gives logits, shows to belong together.

    Also names what its ops read of tensors on the host, which is nothing if it can be captured as a
    CUDA graph, and gives the root-mean-square difference that it made to the logits, relative to
    their size. Raises BaseModelError if that is too large.
    """
    with InputRecorder(model, modules) as recorder, HostReads() as reads:
        expected = run().float()
    linears = install(model, modules, recorder.groups(), context, lora)
    error = float((run().float() - expected).norm() / expected.norm())
    if not error <= _TOLERANCE:
        raise BaseModelError(
            f"{type(model).__name__}'s logits differ by {error:.1e} with fused projections"
        )
    return linears, sorted(reads.found), error


def install(
    model: nn.Module,
    modules: Mapping[str, BaseModule],
    groups: Sequence[Sequence[str]],
    context: StepContext,
    lora: LoraContext,
) -> list[FusedLinears | SingleLinear]:
    """Make the groups' modules compute fused, with the adapters of `lora`.

    `groups`: as InputRecorder gives them; the table of adapters has the modules in this order. The
    weights of a group of several move into one tensor, of which the modules' own become views.
    """
    installed: list[FusedLinears | SingleLinear] = []
    first = 0
    for names in groups:
        targets: list[Any] = [model.get_submodule(name) for name in names]
        outs = tuple(modules[name].out_features for name in names)
        bias = _stacked_bias(targets, outs)
        group = ModuleGroup(first, modules[names[0]].in_features, outs, bias)
        head = modules[names[0]].kind is ModuleKind.LM_HEAD
        call = LinearCall(
            group, tuple(names), None if head else layer_of(names[0], ModuleKind.LINEAR), head
        )
        installed.append(
            (FusedLinears if len(names) > 1 else SingleLinear)(call, context, lora, targets)
        )
        first += len(names)
    return installed


def _stacked_bias(targets: Sequence[Any], outs: Sequence[int]) -> torch.Tensor | None:
    if all(getattr(t, "bias", None) is None for t in targets):
        return None
    if len(targets) == 1:
        return targets[0].bias.detach()
    weight = targets[0].weight
    return torch.cat(
        [
            weight.new_zeros(out) if t.bias is None else t.bias.detach()
            for t, out in zip(targets, outs, strict=True)
        ]
    )


class _Group:
    def __init__(self, call: LinearCall, context: StepContext, lora: LoraContext) -> None:
        self.call, self._context, self._lora = call, context, lora

    @property
    def names(self) -> tuple[str, ...]:
        return self.call.names

    @property
    def group(self) -> ModuleGroup:
        return self.call.group

    def _rows(self, x: torch.Tensor) -> torch.Tensor:
        """(T, in) of what the group is called with in a step. Raises RuntimeError where T is not
        the step's: the kernels would read and write behind the rows."""
        rows, plan = rows_of(x), self._context.plan
        if plan is not None and not self.call.head and len(rows) != len(plan.slots):
            raise RuntimeError(
                f"{self.names[0]} is called with {len(rows)} rows in a step of {len(plan.slots)}"
            )
        return rows

    @property
    def _step(self) -> LoraStep | None:
        """The running step; None where the Triton backend's kernels have nothing to do: what
        hooks.py's hooks do in a step, they do for all of its adapters."""
        updates = self._context.updates
        return None if updates and any(name in updates for name in self.names) else self._lora.step


class SingleLinear(_Group):
    """A linear map of its own, of whatever class: the adapters' part is added to what it gives."""

    def __init__(
        self, call: LinearCall, context: StepContext, lora: LoraContext, targets: Sequence[Any]
    ) -> None:
        super().__init__(call, context, lora)
        targets[0].register_forward_pre_hook(self._begin)
        targets[0].register_forward_hook(self._finish)

    def _begin(self, module: Any, args: tuple[torch.Tensor, ...]) -> None:
        """Begin the update beside the base's product, x: (1, T, in) or as hooks.rows_of says."""
        if (step := self._step) is not None:
            step.begin(self._rows(args[0]), self.call)

    def _finish(self, module: Any, args: tuple[torch.Tensor, ...], y: torch.Tensor) -> None:
        """Finish the update, x: (1, T, in), y: (1, T, out), changed in place."""
        if (step := self._step) is not None:
            step.finish(rows_of(y), self._rows(args[0]), self.call)


class FusedLinears(_Group):
    """Linear maps of one parent: the first called computes for all, the others give their part."""

    def __init__(
        self, call: LinearCall, context: StepContext, lora: LoraContext, targets: Sequence[Any]
    ) -> None:
        super().__init__(call, context, lora)
        self.weight = _stacked([t.weight for t in targets])
        bounds = [0, *accumulate(self.group.outs)]
        self._input: torch.Tensor | None = None
        self._output = torch.empty(0)
        for i, target in enumerate(targets):
            target.forward = _Part(self, i, bounds[i], bounds[i + 1])

    def part(self, index: int, x: torch.Tensor, start: int, end: int) -> torch.Tensor:
        """Columns `start:end` of what `x` gives, a view.

        Raises RuntimeError for a call out of order.
        """
        if index == 0:
            self._input, self._output = x, self._compute(x)
        elif x is not self._input:
            raise RuntimeError(
                f"{self.names[index]} is called with another input than {self.names[0]}"
            )
        part = self._output[..., start:end]
        if index == len(self.names) - 1:
            self._input, self._output = None, torch.empty(0)
        return part

    def _compute(self, x: torch.Tensor) -> torch.Tensor:
        step = self._step
        if step is not None:
            step.begin(self._rows(x), self.call)
        y = F.linear(x, self.weight, self.group.base_bias)
        if step is not None:
            step.finish(rows_of(y), self._rows(x), self.call)
        return y


class _Part:
    """The forward of one of the fused modules."""

    def __init__(self, group: FusedLinears, index: int, start: int, end: int) -> None:
        self._group, self._index, self._start, self._end = group, index, start, end

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self._group.part(self._index, x, self._start, self._end)


def _stacked(weights: Sequence[nn.Parameter]) -> torch.Tensor:
    """Stack weights into (sum of out, in); the parameters become views: no weight is there twice."""
    stacked = torch.cat([w.detach() for w in weights])
    start = 0
    for weight in weights:
        weight.data = stacked[start : start + weight.shape[0]]
        start += weight.shape[0]
    return stacked
