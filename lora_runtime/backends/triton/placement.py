"""Placement of adapters from host memory into slots, copied layer by layer beside the steps, and
their removal."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

import torch

from ...errors import AdapterCapacityError, NotYetFreeError
from ...kernels.slot_table import SlotEntries, SlotTable
from ...kernels.updates import ModuleDelta
from ...modules import BaseModule, ModuleKind
from ..pinned import pinned_bytes
from ..streams import CopyStream, Event, Stream

_ALIGN = 256
_MIN_COPY = 1 << 20
"""Bytes below which a copy's start costs more than its move: small layers are copied together."""
_FIRST, _LAST = -1, 1 << 30


class _Place(NamedTuple):
    """Place of a tensor in a flat buffer: its first byte, dtype and shape."""

    start: int
    dtype: torch.dtype
    shape: torch.Size

    def of(self, buffer: torch.Tensor) -> torch.Tensor:
        end = self.start + self.shape.numel() * self.dtype.itemsize
        return buffer[self.start : end].view(self.dtype).view(self.shape)


class FlatDeltas(Mapping[str, ModuleDelta]):
    """Deltas by module as views of a flat buffer: each is made when it is first asked for, which
    few ever are."""

    def __init__(
        self, buffer: torch.Tensor, layout: Mapping[str, tuple[ModuleDelta, Mapping[str, _Place]]]
    ) -> None:
        """Take the buffer. `layout`: a module's delta without its tensors, and where these lie."""
        self._buffer, self._layout = buffer, layout
        self._made: dict[str, ModuleDelta] = {}

    def __getitem__(self, name: str) -> ModuleDelta:
        if name not in self._made:
            bare, places = self._layout[name]
            tensors = {part: place.of(self._buffer) for part, place in places.items()}
            self._made[name] = replace(bare, **tensors)  # type: ignore[arg-type]
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._layout)

    def __len__(self) -> int:
        return len(self._layout)

    def __contains__(self, name: object) -> bool:
        return name in self._layout


class FlatAdapter:
    """A staged adapter: all tensors in one host buffer, in the order in which layers run.

    Tensors begin at multiples of 256 bytes; one that modules share is there once. All that a
    placement needs is prepared here, on the thread that loads: `names` of the modules, and the
    `entries` of a slot's rows.
    """

    def __init__(self, deltas: Mapping[str, ModuleDelta], pinned: bool = False) -> None:
        # Tensors by id: a shared one is its first module's.
        found: dict[int, tuple[torch.Tensor, int]] = {}
        for name in sorted(deltas, key=lambda n: layer_of(n, deltas[n].kind)):
            for tensor in deltas[name].tensors().values():
                found.setdefault(id(tensor), (tensor, layer_of(name, deltas[name].kind)))
        places: dict[int, _Place] = {}
        size = 0
        for key, (tensor, _) in found.items():
            places[key] = _Place(size, tensor.dtype, tensor.shape)
            size += -(-tensor.nbytes // _ALIGN) * _ALIGN
        self.buffer = torch.empty(size, dtype=torch.uint8, pin_memory=pinned)
        self.num_bytes = size
        self.host_bytes = pinned_bytes(size) if pinned else size
        self.layers: list[tuple[int, int]] = []
        """Layers (number, where its tensors start), ascending, see `layer_of`."""
        for key, (tensor, layer) in found.items():
            if not self.layers or self.layers[-1][0] != layer:
                self.layers.append((layer, places[key].start))
            places[key].of(self.buffer).copy_(tensor)
        self.names = frozenset(deltas)
        self.entries = SlotEntries.of(deltas, lambda t: places[id(t)].start)
        self._layout = {name: _bare(delta, places) for name, delta in deltas.items()}

    def on(self, buffer: torch.Tensor) -> FlatDeltas:
        """Deltas of the adapter's modules, in a copy of the buffer."""
        return FlatDeltas(buffer, self._layout)

    def copies(self, at_least: int) -> Iterator[tuple[int, int, int]]:
        """Stretches of whole layers (last layer, start, end), each but the last of `at_least`
        bytes.

        There are none of an adapter without tensors, such as one that saved the base's own weights.
        """
        if not self.layers:
            return
        ends = [start for _, start in self.layers[1:]] + [self.num_bytes]
        start = 0
        for (layer, _), end in zip(self.layers, ends, strict=True):
            if end - start >= at_least or end == self.num_bytes:
                yield layer, start, end
                start = end


class SlotAdapter:
    """An adapter in a slot.

    `deltas` are views of `buffer`, on the device, `names` their modules; `num_bytes` there. `rare`:
    modules whose change the Triton backend's kernels cannot make and the table does not hold:
    embeddings, norms, rows of single tokens, vocabularies of another size, and modules that are not in
    the table.
    """

    def __init__(
        self,
        slot: int,
        buffer: torch.Tensor,
        deltas: FlatDeltas,
        names: frozenset[str],
        rare: frozenset[str],
        arrivals: list[tuple[int, Event]],
        copies: CopyStream,
    ) -> None:
        self.slot, self.buffer, self.deltas, self.names, self.rare = (
            slot,
            buffer,
            deltas,
            names,
            rare,
        )
        self.num_bytes = buffer.nbytes
        self._arrivals, self._copies = arrivals, copies

    def wait(self, layer: int | None = None) -> None:
        """Let the calling thread's stream wait until the layers up to `layer` (None: all) are
        there.

        Layer -1 is what comes before the layers; what comes behind them needs None. The host never
        waits, and nothing happens once everything has arrived. Not inside a capture: a graph is
        replayed after `wait(None)`. Called by the thread that steps.
        """
        if not self._arrivals:
            return
        if self._arrivals[-1][1].query():
            self._arrivals = []
            return
        event = next(
            (e for last, e in self._arrivals if layer is not None and last >= layer),
            self._arrivals[-1][1],
        )
        self._copies.current().wait_event(event)


class Placer:
    """Placer of adapters: the slots of a device and what lies in them.

    Thread-safe; no call waits for the device. A step sees a placement or removal from the next
    `flush` on. Whoever removes an adapter sees to it that no later step is planned with it (the
    store's holds); steps that are enqueued already may still read it.
    """

    def __init__(
        self,
        modules: Mapping[str, BaseModule],
        slots: int,
        dtype: torch.dtype,
        copies: CopyStream,
        min_copy: int = _MIN_COPY,
    ) -> None:
        """Make the slots.

        `modules`: those of the table, see SlotTable. `min_copy`: bytes that are copied at once at
        least.
        """
        self.table = SlotTable(modules, slots, dtype, copies.device)
        self.copies = copies
        self._min_copy = min_copy
        self._lock = threading.Lock()
        self._free = list(range(slots))
        self._steps: list[Stream] = []
        """Streams on which steps are enqueued."""
        self._leaving: list[tuple[torch.Tensor, list[Event]]] = []

    @property
    def slots(self) -> int:
        """Number of the slots."""
        return self.table.slots

    def place(self, staged: FlatAdapter) -> SlotAdapter:
        """Enqueue the copies and take a slot.

        Raises AdapterCapacityError when no slot is free or the device has no memory for it
        (NotYetFreeError: not yet).
        """
        with self._lock:
            self._reap()
            if not self._free:
                raise AdapterCapacityError("every adapter slot of the device is taken")
            slot = self._free.pop()
        try:
            buffer, arrivals = self._copied(staged)
        except BaseException:
            with self._lock:
                self._free.append(slot)
            raise
        deltas = staged.on(buffer)
        with self._lock:
            rare = self.table.fill(slot, staged.entries, buffer.data_ptr(), deltas)
        return SlotAdapter(slot, buffer, deltas, staged.names, rare, arrivals, self.copies)

    def _copied(self, staged: FlatAdapter) -> tuple[torch.Tensor, list[tuple[int, Event]]]:
        """Enqueue the copies; gives where the adapter will be on the device, and when. Without the
        lock, which the next step wants."""
        try:
            buffer = self.copies.allocate(staged.num_bytes)
        except torch.OutOfMemoryError as error:
            kind = NotYetFreeError if self._leaving else AdapterCapacityError
            raise kind(f"the device has no {staged.num_bytes} bytes for the adapter") from error
        arrivals = []
        for layer, start, end in staged.copies(self._min_copy):
            self.copies.copy(buffer[start:end], staged.buffer[start:end])
            arrivals.append((layer, self.copies.record_event()))
        return buffer, arrivals

    def remove(self, adapter: SlotAdapter) -> None:
        """Free the slot at once, and the memory as soon as no enqueued step reads it."""
        with self._lock:
            self.table.clear(adapter.slot)
            self._free.append(adapter.slot)
            self._leaving.append(
                (adapter.buffer, [stream.record_event() for stream in self._steps])
            )
            del adapter.buffer, adapter.deltas
            self._reap()

    def flush(self) -> None:
        """Bring the table up to date, on the calling thread's stream: before every step."""
        with self._lock:
            stream = self.copies.current()
            if stream not in self._steps:
                self._steps.append(stream)
            self.table.flush(self.copies.write)
            self._reap()

    def _reap(self) -> None:
        """Let go of the memory that no step reads any more."""
        done = [all(e.query() for e in events) for _, events in self._leaving]
        for (buffer, _), free in zip(self._leaving, done, strict=True):
            if free:
                self.copies.release(buffer)
        self._leaving = [entry for entry, free in zip(self._leaving, done, strict=True) if not free]


def layer_of(name: str, kind: ModuleKind) -> int:
    """The layer that a module is in, by its path; -1 for embeddings, and beyond all for what
    follows the layers."""
    number = next((int(part) for part in name.split(".") if part.isdigit()), None)
    return number if number is not None else _FIRST if kind is ModuleKind.EMBEDDING else _LAST


def _bare(
    delta: ModuleDelta, places: Mapping[int, _Place]
) -> tuple[ModuleDelta, dict[str, _Place]]:
    """Strip a delta of its tensors, so that it keeps no memory; gives it with the places of these,
    by the tensors' ids."""
    tensors = delta.tensors()
    bare = replace(delta, **dict.fromkeys(tensors))  # type: ignore[arg-type]
    return bare, {part: places[id(t)] for part, t in tensors.items()}
