"""Parser of a safetensors file's header, which a stranger wrote: no single step of it takes long.

Format: 8 bytes little-endian length of the header, the header as JSON, the tensors' bytes without
gaps (https://github.com/huggingface/safetensors#format). The header is an object of flat objects,
and is taken apart as just that: json.loads of the whole would build whatever it holds, and hold
the interpreter's lock for that long.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...errors import AdapterError
from .files import no_twins, shown

MAX_HEADER_BYTES = 4 << 20
MAX_TENSORS = 32_768
MAX_NAME = 512
_MAX_DIMENSIONS = 8
_MAX_ELEMENTS = 1 << 48
"""Limit of a shape's sizes multiplied, zeros left out: torch would overflow for an empty tensor."""
AT_ONCE, PAUSE_S = 128, 1e-4
"""Entries after which others get the interpreter: to ask for it they would wait 5 ms each time."""
_METADATA = "__metadata__"
_PIECE = 1 << 14
"""Characters of a string, or of the padding, that are looked at in one step."""
SPACE = r"[ \t\n\r]{0,256}"
START = re.compile(rf"{SPACE}\{{{SPACE}")
_KEY = re.compile(rf'"((?:[^"\\\x00-\x1f]|\\.){{0,{6 * MAX_NAME + 6}}})"{SPACE}:{SPACE}')
_ENTRY = re.compile(r"\{[^{}]{0,1024}\}")
_NEXT = re.compile(rf"{SPACE}([,}}]){SPACE}")
_COLON = re.compile(rf"{SPACE}:{SPACE}")
_CHARACTERS = re.compile(r'(?:[^"\\\x00-\x1f]+|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))+')


@dataclass(frozen=True)
class Format:
    """A dtype: its tensor type, an unsigned type of its size, its bits without the sign, the bits
    of infinity. `served`: the tensor type that it is read into."""

    dtype: torch.dtype
    unsigned: type[np.unsignedinteger[Any]]
    magnitude: int
    infinity: int
    served: torch.dtype


FORMATS = {
    "F32": Format(torch.float32, np.uint32, 0x7FFFFFFF, 0x7F800000, torch.float32),
    "BF16": Format(torch.bfloat16, np.uint16, 0x7FFF, 0x7F80, torch.bfloat16),
    "F16": Format(torch.float16, np.uint16, 0x7FFF, 0x7C00, torch.float16),
    # Infinite is what float32 rounds to it.
    "F64": Format(torch.float64, np.uint64, 0x7FFFFFFFFFFFFFFF, 0x47EFFFFFF0000000, torch.float32),
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of the file: where its bytes are, behind the header."""

    name: str
    format: Format
    shape: tuple[int, ...]
    begin: int
    end: int


def parse_header(header: bytes, data_bytes: int, path: Path) -> list[Entry]:
    """Parse the header into entries, by the order of their bytes, without gaps or overlaps.

    Raises AdapterError for what is no such header, and for dtypes that are not supported.
    """
    entries: dict[str, Entry] = {}
    for name, info in _members(header, path):
        if name in entries:
            raise corrupt(
                path, f"its header is not valid JSON: the key {shown(name)} appears twice"
            )
        if len(entries) == MAX_TENSORS:
            raise corrupt(path, f"it names more than {MAX_TENSORS} tensors, the limit")
        entries[name] = _entry(name, info, path)
        if len(entries) % AT_ONCE == 0:
            time.sleep(PAUSE_S)
    if not entries:
        raise AdapterError(f"{path.name} holds no tensors")
    ordered = sorted(entries.values(), key=lambda e: (e.begin, e.end))
    for before, after in pairwise(ordered):
        if before.end != after.begin:
            what = "overlap" if before.end > after.begin else "have a gap between them"
            raise corrupt(path, f"tensors {before.name!r} and {after.name!r} {what}")
    if ordered[0].begin or ordered[-1].end != data_bytes:
        raise corrupt(
            path, f"its tensors take bytes {ordered[0].begin} to {ordered[-1].end} of {data_bytes}"
        )
    return ordered


def _members(header: bytes, path: Path) -> Iterator[tuple[str, Any]]:
    """Tensors' names and what the header says of each; its metadata is checked and left out."""
    try:
        text = without_padding(header).decode()
        start = START.match(text)
        if start is None:
            raise corrupt(path, "its header is not a JSON object")
        end, metadata = start.end(), False
        if text[end:] == "}":
            return
        while True:
            name, end = key_at(text, end)
            if name == _METADATA:
                if metadata:
                    raise ValueError(f"the key {_METADATA!r} appears twice")
                end, metadata = _after_metadata(text, end, path), True
            else:
                body = _ENTRY.match(text, end)
                if body is None:
                    raise corrupt(path, _undescribed(name))
                end = body.end()
                yield name, json.loads(body[0], object_pairs_hook=no_twins)
            end, more = after_comma(text, end)
            if not more:
                break
        if end != len(text):
            raise ValueError(f"something follows it at character {end}")
    except (ValueError, RecursionError) as error:
        raise corrupt(path, f"its header is not valid JSON: {error}") from error


def without_padding(header: bytes) -> bytes:
    """What is left without the white space at the end."""
    end = len(header)
    while end and not header[max(0, end - _PIECE) : end].strip(b" \t\n\r"):
        end = max(0, end - _PIECE)
    last = header[max(0, end - _PIECE) : end]
    return header[: end - len(last) + len(last.rstrip(b" \t\n\r"))]


def key_at(text: str, start: int) -> tuple[str, int]:
    """A member's name, and where its value begins."""
    key = _KEY.match(text, start)
    if key is None:
        raise ValueError(f"no name of a tensor at character {start}")
    return (json.loads(f'"{key[1]}"') if "\\" in key[1] else key[1]), key.end()


def after_comma(text: str, start: int) -> tuple[int, bool]:
    """Where the next member of an object begins, or what is behind it; and whether there is one."""
    mark = _NEXT.match(text, start)
    if mark is None:
        raise ValueError(f"neither a comma nor a brace at character {start}")
    return mark.end(), mark[1] == ","


def _after_metadata(text: str, start: int, path: Path) -> int:
    """Where the metadata, an object of strings, ends."""
    opening = START.match(text, start)
    if opening is None:
        raise corrupt(path, f"its {_METADATA} is not an object of strings")
    end, more = opening.end(), True
    if text.startswith("}", end):
        return end + 1
    while more:
        colon = _COLON.match(text, _after_string(text, end, path))
        if colon is None:
            raise ValueError(f"no colon in {_METADATA}")
        end = _after_string(text, colon.end(), path)
        mark = _NEXT.match(text, end)
        if mark is None:
            raise corrupt(path, f"its {_METADATA} is not an object of strings")
        more = mark[1] == ","
        end = mark.end() if more else mark.start(1) + 1
    return end


def _after_string(text: str, start: int, path: Path) -> int:
    if not text.startswith('"', start):
        raise corrupt(path, f"its {_METADATA} is not an object of strings")
    end = start + 1
    while not text.startswith('"', end):
        piece = _CHARACTERS.match(text, end, end + _PIECE)
        if piece is None:
            raise ValueError(f"a string that is none at character {start}")
        end = piece.end()
    return end + 1


def _entry(name: str, info: Any, path: Path) -> Entry:
    if not name.isprintable() or not 0 < len(name) <= MAX_NAME:
        raise corrupt(path, f"{shown(name)} is no name of a tensor")
    if info.keys() != {"dtype", "shape", "data_offsets"}:
        raise corrupt(path, _undescribed(name))
    shape, offsets = info["shape"], info["data_offsets"]
    if not _are_sizes(shape) or len(shape) > _MAX_DIMENSIONS:
        raise corrupt(path, f"tensor {name!r} has the shape {shown(shape)}")
    if not _are_sizes(offsets) or len(offsets) != 2:
        raise corrupt(path, f"tensor {name!r} has the data_offsets {shown(offsets)}")
    if not isinstance(info["dtype"], str) or info["dtype"] not in FORMATS:
        kinds = ", ".join(FORMATS)
        raise AdapterError(
            f"tensor {name!r} has dtype {shown(info['dtype'])}: not supported, only {kinds} are"
        )
    kind, count = FORMATS[info["dtype"]], math.prod(shape)
    if offsets[1] - offsets[0] != count * kind.dtype.itemsize:
        raise corrupt(
            path, f"tensor {name!r} of shape {shown(shape)} takes {shown(offsets)}: not its size"
        )
    if math.prod(max(1, d) for d in shape) > _MAX_ELEMENTS:
        raise corrupt(path, f"tensor {name!r} has the shape {shown(shape)}")
    return Entry(name, kind, tuple(shape), offsets[0], offsets[1])


def _are_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(v) is int and 0 <= v < 1 << 63 for v in value)


def _undescribed(name: str) -> str:
    return f"tensor {shown(name)} is not described by dtype, shape and data_offsets"


def corrupt(path: Path, reason: str) -> AdapterError:
    return AdapterError(f"{path.name} is corrupt: {reason}")
