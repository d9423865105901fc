"""Detection of forwards that read device values on the host: CUDA graphs cannot capture those."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_AS_NUMBERS = {"aten::_local_scalar_dense", "aten::is_nonzero", "aten::item", "aten::equal"}
_BY_VALUES = {
    "aten::nonzero",
    "aten::masked_select",
    "aten::_unique2",
    "aten::unique_dim",
    "aten::bincount",
    "aten::unique_consecutive",
    "aten::repeat_interleave.Tensor",
}
"""Ops whose results' shapes depend on values."""
_INDEXED = {"aten::index.Tensor", "aten::index_put_", "aten::index_put", "aten::_index_put_impl_"}


class HostReads(TorchDispatchMode):
    """Collector of the names of ops that wait for the device, `found`, while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        to_host = (
            isinstance(out, torch.Tensor)
            and out.is_cpu
            and any(not a.is_cpu for a in _tensors(args))
        )
        if to_host or reads_on_host(func, args):
            self.found.add(func.name())
        return out


def reads_on_host(func: Any, args: Sequence[Any]) -> bool:
    """True if an op, as a TorchDispatchMode sees it, waits for values; copies to the host aside."""
    name = func.name()
    if name in _INDEXED:  # a mask as an index has as many results as it has True
        return any(i.dtype in (torch.bool, torch.uint8) for i in _tensors(args[1]))
    return name in _AS_NUMBERS or name in _BY_VALUES


def _tensors(values: Iterable[Any]) -> Iterator[torch.Tensor]:
    return (v for v in values if isinstance(v, torch.Tensor))
