"""Log probabilities as JSON, in the forms of completions and of chats.

A token may have but a part of a character. A completion names it as OpenAI does, `bytes:\\xf0\\x9f`:
its names are keys, and two such tokens must not become one. A chat has the bytes beside the name.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from lora_runtime import TokenLogprob

TokenBytes = Callable[[int], bytes]
LEAST = -9999.0
"""What stands for minus infinity, which JSON does not have."""
_dumps = json.JSONEncoder(separators=(",", ":")).encode


class LogprobWriter(Protocol):
    """Writer of one choice's log probabilities, increment by increment."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the lists that there are."""

    def entries(self, tokens: Iterable[TokenLogprob]) -> tuple[str, ...]:
        """Give the next tokens' entries of each list as JSON, without the lists' brackets."""


def together(writer: LogprobWriter, increments: Sequence[tuple[str, ...]]) -> str:
    """Put entries together to the JSON of one object."""
    lists = (
        f'"{name}":[{",".join(entries[i] for entries in increments)}]'
        for i, name in enumerate(writer.names)
    )
    return f"{{{','.join(lists)}}}"


class CompletionLogprobs:
    """Writer of lists beside each other. An offset is that of a token's first character in the text
    of all tokens, as vLLM counts it: special ones count where they are not given, too."""

    names = ("tokens", "token_logprobs", "top_logprobs", "text_offset")

    def __init__(self, token_bytes: TokenBytes, as_ids: bool) -> None:
        self._bytes, self._as_ids, self._offset = token_bytes, as_ids, 0
        self._text = codecs.getincrementaldecoder("utf-8")("replace")

    def entries(self, tokens: Iterable[TokenLogprob]) -> tuple[str, ...]:
        names: list[str] = []
        values: list[float] = []
        tops: list[dict[str, float]] = []
        offsets: list[int] = []
        for one in tokens:
            name, value = self._name(one.token_id), max(one.logprob, LEAST)
            names.append(name)
            values.append(value)
            tops.append(self._top(one) | {name: value})
            offsets.append(self._offset)
            self._offset += len(self._text.decode(self._bytes(one.token_id)))
        return tuple(_dumps(entries)[1:-1] for entries in (names, values, tops, offsets))

    def _top(self, one: TokenLogprob) -> dict[str, float]:
        found: dict[str, float] = {}
        for token, value in one.top:
            found.setdefault(self._name(token), max(value, LEAST))  # the best of those of one name
        return found

    def _name(self, token: int) -> str:
        if self._as_ids:
            return f"token_id:{token}"
        text = self._bytes(token)
        try:
            return text.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in text)


class ChatLogprobs:
    """Writer of a list with an object for each token."""

    names = ("content",)

    def __init__(self, token_bytes: TokenBytes, as_ids: bool) -> None:
        self._bytes, self._as_ids = token_bytes, as_ids

    def entries(self, tokens: Iterable[TokenLogprob]) -> tuple[str, ...]:
        content = [
            {
                **self._entry(one.token_id, one.logprob),
                "top_logprobs": [self._entry(*pair) for pair in one.top],
            }
            for one in tokens
        ]
        return (_dumps(content)[1:-1],)

    def _entry(self, token: int, value: float) -> dict[str, object]:
        text = self._bytes(token)
        name = f"token_id:{token}" if self._as_ids else text.decode(errors="replace")
        return {"token": name, "logprob": max(value, LEAST), "bytes": list(text)}
