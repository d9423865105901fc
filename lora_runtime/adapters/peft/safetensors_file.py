"""Reading of a safetensors file: its header first, so that what it holds can be refused before any
of the data is read."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...errors import AdapterError
from .files import LFS_POINTER, check_end, check_size, fill, lfs_pointer, open_regular
from .read_budget import ReadShare
from .safetensors_header import MAX_HEADER_BYTES, Entry, Format, corrupt, parse_header

_CHUNK = 4 << 20


@dataclass(frozen=True)
class TensorFile:
    """The tensors by name, all finite, and the SHA-256 of the whole file. They are views of one
    buffer, but for those of float64, which are float32 here."""

    tensors: Mapping[str, torch.Tensor]
    digest: bytes


class OpenTensors:
    """An open file of which the header was read."""

    def __init__(
        self, stream: io.FileIO, path: Path, size: int, max_header_bytes: int | None = None
    ) -> None:
        """Read the header; `max_header_bytes`: None is MAX_HEADER_BYTES."""
        self._stream, self._path = stream, path
        self._digest = hashlib.sha256()
        limit = MAX_HEADER_BYTES if max_header_bytes is None else max_header_bytes
        header = _read_header(stream, size, path, self._digest, limit)
        self.header_bytes, self.data_bytes = len(header), size - 8 - len(header)
        self._entries = parse_header(header, self.data_bytes, path)

    @property
    def names(self) -> list[str]:
        return [entry.name for entry in self._entries]

    def outlines(self) -> dict[str, torch.Tensor]:
        """The tensors by name, of their shape and dtype, without values: on the meta device."""
        return {
            e.name: torch.empty(e.shape, dtype=e.format.served, device="meta")
            for e in self._entries
        }

    def read(self, share: ReadShare | None = None) -> TensorFile:
        """Read, hash and check the data in one pass, once `share` allows it. Raises AdapterError
        for NaN and infinite values, EngineStoppedError."""
        if share is not None:
            share.take(self.data_bytes)
        return self.fill(share)

    def fill(self, share: ReadShare | None) -> TensorFile:
        """Do what `read` does, when the share has been taken already."""
        buffer = torch.empty(self.data_bytes, dtype=torch.uint8)
        view = memoryview(buffer.numpy())  # type: ignore[arg-type]
        for start in range(0, self.data_bytes, _CHUNK):
            if share is not None:
                share.check()
            fill(self._stream, view[start : start + _CHUNK], self._path)
            self._digest.update(view[start : start + _CHUNK])
        check_end(self._stream, self._path)
        _check_finite(self._entries, buffer)
        tensors = {entry.name: _tensor(entry, buffer) for entry in self._entries}
        return TensorFile(tensors, self._digest.digest())


@contextmanager
def open_tensors(path: Path, max_bytes: int, roots: Sequence[Path] = ()) -> Iterator[OpenTensors]:
    """Open a file and read its header, nothing else.

    Raises AdapterError for a file that is missing, too large, truncated, corrupt, of other types
    than float32, bfloat16, float16 and float64, or without tensors.
    """
    with open_regular(path, roots) as (stream, size):
        check_size(path, size, max_bytes)
        yield OpenTensors(stream, path, size)


def _read_header(stream: io.FileIO, size: int, path: Path, digest: Any, limit: int) -> bytes:
    if size < 8:
        raise corrupt(path, f"it has {size} bytes, the length of the header takes 8")
    prefix = bytearray(8)
    fill(stream, memoryview(prefix), path)
    if prefix == LFS_POINTER[:8]:
        raise AdapterError(lfs_pointer(path.name))
    length = int.from_bytes(prefix, "little")
    if length > size - 8:
        raise corrupt(path, f"its header of {length} bytes is longer than the file of {size} bytes")
    if length > limit:
        raise corrupt(path, f"its header of {length} bytes is over the limit of {limit}")
    header = bytearray(length)
    fill(stream, memoryview(header), path)
    digest.update(prefix)
    digest.update(header)
    return bytes(header)


def _tensor(entry: Entry, buffer: torch.Tensor) -> torch.Tensor:
    data = buffer[entry.begin : entry.end]
    if entry.begin % entry.format.dtype.itemsize:
        data = data.clone()  # a view would not be aligned
    tensor = data.view(entry.format.dtype).view(entry.shape)
    if entry.format.served is entry.format.dtype:
        return tensor
    return torch.from_numpy(tensor.numpy().astype(np.float32))  # beside torch's thread pool


def _check_finite(entries: list[Entry], buffer: torch.Tensor) -> None:
    """Check values by their bits, one pass over each run of equal dtype: cheap, outside the GIL and
    torch's thread pool."""
    data = buffer.numpy()
    for kind, begin, end in _runs(entries):
        if _has_nonfinite(data[begin:end], kind):
            bad = next(
                e.name
                for e in entries
                if e.format is kind and _has_nonfinite(data[e.begin : e.end], kind)
            )
            raise AdapterError(f"tensor {bad!r} holds NaN or infinite values")


def _runs(entries: list[Entry]) -> Iterator[tuple[Format, int, int]]:
    first = entries[0]
    kind, begin, end = first.format, first.begin, first.end
    for entry in entries[1:]:
        if entry.format is not kind:
            yield kind, begin, end
            kind, begin = entry.format, entry.begin
        end = entry.end
    yield kind, begin, end


def _has_nonfinite(data: np.ndarray[Any, Any], kind: Format) -> bool:
    values = data.view(kind.unsigned)
    return any(
        int(np.bitwise_and(values[i : i + _CHUNK // 4], kind.unsigned(kind.magnitude)).max())
        >= kind.infinity
        for i in range(0, len(values), _CHUNK // 4)
    )
