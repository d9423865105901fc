"""Parser of safetensors files, written so that every limit is checked before memory is taken.

Format: 8 bytes little-endian length of the header, the header as JSON, the tensors' bytes without
gaps (https://github.com/huggingface/safetensors#format).
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...errors import AdapterError
from .files import check_end, check_size, decode_object, fill, open_regular, shown

MAX_HEADER_BYTES = 32 << 20
MAX_TENSORS = 100_000
MAX_NAME = 512
_MAX_DIMENSIONS = 8
_CHUNK = 4 << 20


@dataclass(frozen=True)
class _Format:
    """A dtype: its tensor type, an unsigned type of its size, its bits without the sign, the bits
    of infinity."""

    dtype: torch.dtype
    unsigned: type[np.unsignedinteger[Any]]
    magnitude: int
    infinity: int


_FORMATS = {
    "F32": _Format(torch.float32, np.uint32, 0x7FFFFFFF, 0x7F800000),
    "BF16": _Format(torch.bfloat16, np.uint16, 0x7FFF, 0x7F80),
    "F16": _Format(torch.float16, np.uint16, 0x7FFF, 0x7C00),
}


@dataclass(frozen=True)
class _Entry:
    name: str
    format: _Format
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class TensorFile:
    """The tensors by name, views of one buffer, all finite; and the SHA-256 of the whole file."""

    tensors: Mapping[str, torch.Tensor]
    digest: bytes


def read_tensors(path: Path, max_bytes: int, roots: Sequence[Path] = ()) -> TensorFile:
    """Read, check and hash in one pass over the file.

    Raises AdapterError for a file that is missing, too large, truncated, corrupt, of other types
    than float32, bfloat16 and float16, without tensors, or with NaN or infinite values.
    """
    with open_regular(path, roots) as (stream, size):
        check_size(path, size, max_bytes)
        digest = hashlib.sha256()
        header = _read_header(stream, size, path, digest)
        data_bytes = size - 8 - len(header)
        entries = _parse(header, data_bytes, path)
        buffer = torch.empty(data_bytes, dtype=torch.uint8)
        view = memoryview(buffer.numpy())  # type: ignore[arg-type]
        for start in range(0, data_bytes, _CHUNK):
            fill(stream, view[start : start + _CHUNK], path)
            digest.update(view[start : start + _CHUNK])
        check_end(stream, path)
    _check_finite(entries, buffer)
    return TensorFile({entry.name: _tensor(entry, buffer) for entry in entries}, digest.digest())


def _read_header(stream: io.FileIO, size: int, path: Path, digest: Any) -> bytes:
    if size < 8:
        raise _corrupt(path, f"it has {size} bytes, the length of the header takes 8")
    prefix = bytearray(8)
    fill(stream, memoryview(prefix), path)
    length = int.from_bytes(prefix, "little")
    if length > size - 8:
        raise _corrupt(
            path, f"its header of {length} bytes is longer than the file of {size} bytes"
        )
    if length > MAX_HEADER_BYTES:
        raise _corrupt(
            path, f"its header of {length} bytes is over the limit of {MAX_HEADER_BYTES}"
        )
    header = bytearray(length)
    fill(stream, memoryview(header), path)
    digest.update(prefix)
    digest.update(header)
    return bytes(header)


def _parse(header: bytes, data_bytes: int, path: Path) -> list[_Entry]:
    """Parse the header into entries, by the order of their bytes, without gaps or overlaps."""
    table = decode_object(header, f"{path.name} is corrupt: its header")
    metadata = table.pop("__metadata__", {})
    if not isinstance(metadata, dict):
        raise _corrupt(path, "its __metadata__ is not an object")
    if not table:
        raise AdapterError(f"{path.name} holds no tensors")
    if len(table) > MAX_TENSORS:
        raise _corrupt(path, f"it names {len(table)} tensors, the limit is {MAX_TENSORS}")
    entries = sorted(
        (_entry(name, info, path) for name, info in table.items()), key=lambda e: (e.begin, e.end)
    )
    for before, after in pairwise(entries):
        if before.end != after.begin:
            what = "overlap" if before.end > after.begin else "have a gap between them"
            raise _corrupt(path, f"tensors {before.name!r} and {after.name!r} {what}")
    if entries[0].begin or entries[-1].end != data_bytes:
        raise _corrupt(
            path, f"its tensors take bytes {entries[0].begin} to {entries[-1].end} of {data_bytes}"
        )
    return entries


def _entry(name: str, info: Any, path: Path) -> _Entry:
    if not name.isprintable() or not 0 < len(name) <= MAX_NAME:
        raise _corrupt(path, f"{shown(name)} is no name of a tensor")
    if not isinstance(info, dict) or info.keys() != {"dtype", "shape", "data_offsets"}:
        raise _corrupt(path, f"tensor {name!r} is not described by dtype, shape and data_offsets")
    shape, offsets = info["shape"], info["data_offsets"]
    if not _are_sizes(shape) or len(shape) > _MAX_DIMENSIONS:
        raise _corrupt(path, f"tensor {name!r} has the shape {shown(shape)}")
    if not _are_sizes(offsets) or len(offsets) != 2:
        raise _corrupt(path, f"tensor {name!r} has the data_offsets {shown(offsets)}")
    if not isinstance(info["dtype"], str) or info["dtype"] not in _FORMATS:
        kinds = ", ".join(_FORMATS)
        raise AdapterError(
            f"tensor {name!r} has dtype {shown(info['dtype'])}: not supported, only {kinds} are"
        )
    kind, count = _FORMATS[info["dtype"]], 1
    for dimension in shape:
        count *= dimension
    if offsets[1] - offsets[0] != count * kind.dtype.itemsize:
        raise _corrupt(
            path, f"tensor {name!r} of shape {shown(shape)} takes {shown(offsets)}: not its size"
        )
    return _Entry(name, kind, tuple(shape), offsets[0], offsets[1])


def _are_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(v) is int and 0 <= v < 1 << 63 for v in value)


def _tensor(entry: _Entry, buffer: torch.Tensor) -> torch.Tensor:
    data = buffer[entry.begin : entry.end]
    if entry.begin % entry.format.dtype.itemsize:
        data = data.clone()  # a view would not be aligned
    return data.view(entry.format.dtype).view(entry.shape)


def _check_finite(entries: list[_Entry], buffer: torch.Tensor) -> None:
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


def _runs(entries: list[_Entry]) -> Iterator[tuple[_Format, int, int]]:
    first = entries[0]
    kind, begin, end = first.format, first.begin, first.end
    for entry in entries[1:]:
        if entry.format is not kind:
            yield kind, begin, end
            kind, begin = entry.format, entry.begin
        end = entry.end
    yield kind, begin, end


def _has_nonfinite(data: np.ndarray[Any, Any], kind: _Format) -> bool:
    values = data.view(kind.unsigned)
    return any(
        int(np.bitwise_and(values[i : i + _CHUNK // 4], kind.unsigned(kind.magnitude)).max())
        >= kind.infinity
        for i in range(0, len(values), _CHUNK // 4)
    )


def _corrupt(path: Path, reason: str) -> AdapterError:
    return AdapterError(f"{path.name} is corrupt: {reason}")
