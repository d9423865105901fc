"""Rows of JSONL files, checked before anything is loaded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import TrainingError

MAX_FILE_BYTES = 8 << 30
MAX_LINE_BYTES = 8 << 20
MAX_ROWS = 5_000_000
MAX_MESSAGES = 1000
_SHOWN = 80

Message = dict[str, str]


@dataclass(frozen=True)
class Row:
    """A prompt and what is to be answered to it.

    `prompt` is a text, tokenized as a request's `prompt` is, or chat messages, rendered as a
    request's `messages` are: what was trained is what is served.
    """

    line: int
    prompt: str | tuple[Message, ...]
    completion: str


@dataclass(frozen=True)
class DataFile:
    """All rows of one file and the SHA-256 of its bytes."""

    path: Path
    rows: tuple[Row, ...]
    sha256: str


def read_rows(path: Path) -> DataFile:
    """Read {"prompt", "completion"} and {"messages"} rows; blank lines are passed over.

    In "messages" the last message must be the assistant's: it is the completion, all others are the
    prompt. Raises TrainingError naming file, line and field.
    """
    digest = hashlib.sha256()
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise TrainingError(f"{path}: larger than the limit of {MAX_FILE_BYTES} bytes")
        with path.open("rb") as stream:
            rows = tuple(_rows(path, stream, digest))
    except OSError as error:
        raise TrainingError(f"{path} cannot be read: {error.strerror}") from error
    if not rows:
        raise TrainingError(f"{path} has no rows")
    return DataFile(path, rows, digest.hexdigest())


def _rows(path: Path, stream: Any, digest: Any) -> Iterator[Row]:
    count = 0
    for number, line in enumerate(iter(lambda: stream.readline(MAX_LINE_BYTES + 1), b""), 1):
        digest.update(line)
        where = f"{path}:{number}"
        if len(line) > MAX_LINE_BYTES:
            raise TrainingError(f"{where}: longer than the limit of {MAX_LINE_BYTES} bytes")
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if not line.strip():
            continue
        count += 1
        if count > MAX_ROWS:
            raise TrainingError(f"{where}: more than the limit of {MAX_ROWS} rows")
        yield _row(where, number, _object(where, line))


def _object(where: str, line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line.decode("utf-8"), object_pairs_hook=_no_repeats)
    except UnicodeDecodeError as error:
        raise TrainingError(
            f"{where}: not UTF-8 at byte {error.start + 1}: {error.reason}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise TrainingError(f"{where}: not a line of JSON: {error}") from error
    if not isinstance(value, dict):
        raise TrainingError(f"{where}: not a JSON object: {_shown(value)}")
    return value


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"field {name!r} is there twice")
        found[name] = value
    return found


def _row(where: str, line: int, value: dict[str, Any]) -> Row:
    chat = "messages" in value
    known = {"messages"} if chat else {"prompt", "completion"}
    for name in value:
        if name not in known:
            raise TrainingError(
                f"{where}: field {name!r} is not known: a row has prompt and completion, or messages"
            )
    if chat:
        return _chat_row(where, line, value["messages"])
    return Row(line, _text(where, value, "prompt", empty=True), _text(where, value, "completion"))


def _chat_row(where: str, line: int, value: Any) -> Row:
    if not isinstance(value, list) or not 2 <= len(value) <= MAX_MESSAGES:
        raise TrainingError(
            f"{where}: field 'messages' must be a list of 2 to {MAX_MESSAGES} messages"
        )
    messages = tuple(_message(f"{where}: messages[{i}]", m) for i, m in enumerate(value))
    if messages[-1]["role"] != "assistant":
        raise TrainingError(
            f"{where}: messages[{len(messages) - 1}].role must be 'assistant': it is the completion"
        )
    if not messages[-1]["content"]:
        raise TrainingError(f"{where}: messages[{len(messages) - 1}].content is empty")
    return Row(line, messages[:-1], messages[-1]["content"])


def _message(where: str, value: Any) -> Message:
    if not isinstance(value, dict):
        raise TrainingError(f"{where} is not a JSON object: {_shown(value)}")
    for name in value:
        if name not in ("role", "content"):
            raise TrainingError(
                f"{where}: field {name!r} is not known: a message has role and content"
            )
    return {
        "role": _text(where, value, "role"),
        "content": _text(where, value, "content", empty=True),
    }


def _text(where: str, value: dict[str, Any], name: str, empty: bool = False) -> str:
    if name not in value:
        raise TrainingError(f"{where}: field {name!r} is missing")
    text = value[name]
    if not isinstance(text, str):
        raise TrainingError(f"{where}: field {name!r} must be a string: {_shown(text)}")
    if not text and not empty:
        raise TrainingError(f"{where}: field {name!r} is empty")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        place = error.start + 1
        raise TrainingError(
            f"{where}: field {name!r} has half a surrogate pair at character {place}"
        ) from error
    return text


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
