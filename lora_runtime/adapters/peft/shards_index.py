"""Parser of adapter_model.safetensors.index.json, which a stranger wrote: no single step of it takes
long.

The index is an object with `weight_map`, an object of the shards' names by those of tensors; what
stands beside it, such as `metadata`, is passed over.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Generator, Iterator

from ...errors import AdapterError
from . import safetensors_header as header
from .files import shown

WEIGHTS = "adapter_model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
MAX_INDEX_BYTES = 4 << 20
MAX_SHARDS = 64
"""Limit of the shards of one adapter: all are open at once."""
_MAX_OTHERS, _MAX_OTHER = 64, 8192
"""Limits of the members that are passed over, and of the characters of each."""
_JSON = json.JSONDecoder()
_FILE = re.compile(r'"([A-Za-z0-9][A-Za-z0-9._-]{0,200}\.safetensors)"', re.ASCII)


def parse_index(data: bytes) -> dict[str, list[str]]:
    """Names of the tensors, by the file that holds them.

    Raises AdapterError for what is no index, file names with more than a name in them, and too many
    tensors or files.
    """
    files: dict[str, list[str]] = {}
    seen: set[str] = set()
    try:
        for name, file in _members(header.without_padding(data).decode("utf-8-sig")):
            if name in seen:
                raise AdapterError(f"{INDEX} names the tensor {shown(name)} twice")
            seen.add(name)
            files.setdefault(file, []).append(name)
            if len(files) > MAX_SHARDS:
                raise AdapterError(f"{INDEX} names more than {MAX_SHARDS} files, the limit")
            if len(seen) > header.MAX_TENSORS:
                raise AdapterError(
                    f"{INDEX} names more than {header.MAX_TENSORS} tensors, the limit"
                )
            if len(seen) % header.AT_ONCE == 0:
                time.sleep(header.PAUSE_S)
    except (ValueError, RecursionError) as error:
        raise AdapterError(f"{INDEX} is not valid JSON: {error}") from error
    if not files:
        raise AdapterError(f"{INDEX} has no weight_map")
    return files


def _members(text: str) -> Iterator[tuple[str, str]]:
    """Tensors and their files."""
    end, more, others = _start(text), True, 0
    if text[end:] == "}":
        return
    while more:
        name, end = header.key_at(text, end)
        if name == "weight_map":
            end = yield from _weight_map(text, end)
        else:
            others += 1
            end = _passed_over(text, end, name, others)
        end, more = header.after_comma(text, end)
    if end != len(text):
        raise ValueError(f"something follows it at character {end}")


def _passed_over(text: str, start: int, name: str, count: int) -> int:
    """Where a member ends that says nothing of the tensors."""
    if count > _MAX_OTHERS:
        raise AdapterError(f"{INDEX} holds more than {_MAX_OTHERS} members beside its weight_map")
    try:
        _, length = _JSON.raw_decode(text[start : start + _MAX_OTHER])
    except json.JSONDecodeError as error:
        raise AdapterError(
            f"{INDEX} holds {shown(name)}, which is not valid JSON or longer than {_MAX_OTHER} "
            "characters"
        ) from error
    return start + length


def _weight_map(text: str, start: int) -> Generator[tuple[str, str], None, int]:
    """Tensors and their files; gives where the map ends."""
    opening, more = header.START.match(text, start), True
    if opening is None:
        raise AdapterError(f"{INDEX} has no weight_map that is an object")
    end = opening.end()
    if text.startswith("}", end):
        return end + 1
    while more:
        name, end = header.key_at(text, end)
        file = _FILE.match(text, end)
        if file is None:
            raise AdapterError(f"{INDEX}: tensor {shown(name)} lies in what is no name of a shard")
        yield name, file[1]
        last, (end, more) = file.end(), header.after_comma(text, file.end())
    return text.index("}", last) + 1


def _start(text: str, at: int = 0) -> int:
    start = header.START.match(text, at)
    if start is None:
        raise AdapterError(f"{INDEX} is not a JSON object")
    return start.end()
