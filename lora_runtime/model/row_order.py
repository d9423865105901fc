"""Which of a base's modules get the rows of a step, in their order: those alone can take adapters.

Models call projections with rows as (1, T, n), (T, n) or (1, 1, T, n), norms with heads beside
them, and experts with the rows that a router chose. Shapes alone do not tell these apart. So small
forwards are run in which every row attends to itself only, of the same tokens in three orders: a
module gets the step's rows if what it is called with follows the tokens each time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.distributed.tensor import DTensor

from ..errors import BaseModelError
from ..modules import BaseModule, ModuleKind

_ROWS = 16
"""Rows of a forward: with as many a router hardly ever sends all of them to one expert."""
_KEPT = [1, _ROWS - 2]
"""Rows whose logits are asked for alone."""
_COLUMNS = 64
"""Columns, spread over the width, that tell a row from the others."""
_SLACK = 1.001
"""Factor by which a row may be farther from the one that it should be than from another one."""

Forward = Callable[[torch.Tensor, "torch.Tensor | None"], torch.Tensor]
Floats = npt.NDArray[np.float32]


class _Recorder:
    """Recorder of what modules are called with, a few columns of each row, while it is entered.

    On the host and with numpy: hundreds of tiny products would each wait for all threads.
    """

    def __init__(self, model: nn.Module, modules: Mapping[str, BaseModule]) -> None:
        self._model, self._modules = model, modules
        self._handles: list[Any] = []
        self.calls: dict[str, list[Floats | None]] = {name: [] for name in modules}
        """Inputs (..., columns) by module, of an embedding its outputs; None: not given by
        position."""
        self.others: dict[str, str] = {}
        """Type of the output by module that gives something else than rows, such as a router."""

    def __enter__(self) -> Self:
        for name, module in self._modules.items():

            def note(
                _: nn.Module, args: Any, y: Any, name: str = name, kind: ModuleKind = module.kind
            ) -> None:
                x = y if kind is ModuleKind.EMBEDDING and args else next(iter(args), None)
                self.calls[name].append(None if x is None else _columns(x))
                if not isinstance(y, torch.Tensor):
                    self.others[name] = type(y).__name__

            self._handles.append(self._model.get_submodule(name).register_forward_hook(note))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        for handle in self._handles:
            handle.remove()


def _columns(x: torch.Tensor) -> Floats:
    x = (x.to_local() if isinstance(x, DTensor) else x).detach()
    return x[..., :: -(-x.shape[-1] // _COLUMNS)].float().cpu().numpy()


class RowOrder:
    """What the forwards showed.

    `dims`: by norm, the dimension along which its rows lie; `refusals`: by module that does not get
    the step's rows, how the base calls it.
    """

    def __init__(
        self, model: nn.Module, modules: Mapping[str, BaseModule], vocab_size: int, run: Forward
    ) -> None:
        """Run the forwards. `run(tokens, kept)` gives logits, of the rows `kept` if that is set;
        rows in it depend on no others.

        Raises BaseModelError if the model does not give the logits of chosen rows alone.
        """
        tokens = torch.linspace(0, vocab_size - 1, _ROWS + 1).long()
        first, new = tokens[:_ROWS], tokens[_ROWS:]
        # Each row that was there before, by its place then. The new one pins down the first place,
        # the reversed ones find what is sorted by content.
        orders = {
            "first": (first, None),
            "shifted": (torch.cat([new, first[:-1]]), None),
            "reversed": (first.flip(0), torch.tensor(_KEPT)),
        }
        seen, logits = [], []
        others: dict[str, str] = {}
        for ids, kept in orders.values():
            with _Recorder(model, modules) as recorder:
                logits.append(run(ids, kept))
            seen.append(recorder.calls)
            others |= recorder.others
        _check_logits(type(model).__name__, logits[0], logits[2])
        self.dims: dict[str, int] = {}
        self.refusals: dict[str, str] = {}
        for name, module in modules.items():
            # The head gets the kept rows there, which the logits have shown.
            compared = seen[:2] if module.kind is ModuleKind.LM_HEAD else seen
            dim = _dim_of_rows([calls[name] for calls in compared], module)
            if name in others:
                self.refusals[name] = f"takes a {others[name]} from it, not rows"
            elif dim is None:
                self.refusals[name] = _how_called(seen[0][name])
            elif module.kind is ModuleKind.NORM:
                self.dims[name] = dim


def _dim_of_rows(seen: Sequence[Sequence[Floats | None]], module: BaseModule) -> int | None:
    """Dimension of the rows, the same in all calls of a module; None where there is none."""
    calls = [[x for x in calls if x is not None] for calls in seen]
    shapes = {x.shape for run in calls for x in run}
    if len(shapes) != 1 or len({len(run) for run in (*calls, *seen)}) != 1:
        return None
    shape = shapes.pop()[:-1]
    if module.kind is not ModuleKind.NORM and shape.count(1) != len(shape) - 1:
        return None
    first, shifted, *backwards = calls
    for dim in (d for d, size in enumerate(shape) if size == _ROWS):
        rows = np.arange(_ROWS)
        pairs = [(shifted, rows[1:], rows[:-1])] + [(run, rows, rows[::-1]) for run in backwards]
        if all(
            _follows(_rows_of(x, dim)[now], _rows_of(y, dim), before)
            for run, now, before in pairs
            for x, y in zip(run, first, strict=True)
        ):
            return dim
    return None


def _rows_of(x: Floats, dim: int) -> Floats:
    return np.moveaxis(x, dim, 0).reshape(x.shape[dim], -1)


def _follows(rows: Floats, before: Floats, places: npt.NDArray[np.intp]) -> bool:
    """True if each row is nearest to the one that was in its place in `places` before; rows that
    are all the same are in any order."""
    far = np.linalg.norm(rows[:, None] - before[None], axis=-1)
    own = far[np.arange(len(rows)), places]
    return bool((own <= _SLACK * far.min(1) + 1e-6 * np.abs(before).max()).all())


def _check_logits(model: str, logits: torch.Tensor, kept: torch.Tensor) -> None:
    """Compare the logits of chosen rows, of the reversed tokens, with those of all rows."""
    places = np.array([_ROWS - 1 - row for row in _KEPT])
    if kept.shape[:2] != (1, len(_KEPT)) or not _follows(
        _finite(_columns(kept)[0]), _finite(_columns(logits)[0]), places
    ):
        raise BaseModelError(
            f"{model} gives logits {tuple(kept.shape)} where those of {len(_KEPT)} chosen rows are "
            "wanted (logits_to_keep): not supported"
        )


def _finite(x: Floats) -> Floats:
    """`x` with 0 for columns that a base masks, and for what is no number: the check of steps tells."""
    return np.where(np.isfinite(x), x, 0)


def _how_called(calls: Sequence[Floats | None]) -> str:
    shapes = [x.shape[:-1] for x in calls if x is not None]
    if not calls:
        return "does not call it in a small forward"
    if not shapes:
        return "calls it by keyword"
    said = ", ".join(str(shape) for shape in shapes[:3])
    return f"calls it with other rows than a step's in their order ({said} for {_ROWS} rows)"
