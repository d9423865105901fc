"""The Rust tokenizer in one of transformers', for short texts: the layers around it take ten times as
long."""

from __future__ import annotations

from functools import cache
from typing import Any

SHORT_CHARACTERS = 256
"""Characters of a text that is encoded in less time than a thread takes to begin."""
_READING = ("__call__", "_encode_plus")
_WRITING = ("decode", "_decode")


def encode_short(tokenizer: Any, text: str, add_special_tokens: bool) -> list[int] | None:
    """Encode as `tokenizer` does; None where that is not all its backend's doing.

    For texts of a line: unlike transformers' own call, this keeps the interpreter.
    """
    if not _is_plain(tokenizer.__class__, _READING):
        return None
    backend = tokenizer.backend_tokenizer
    if (
        backend.truncation is not None
        or backend.padding is not None
        or backend.encode_special_tokens != tokenizer.split_special_tokens
    ):
        return None
    return list(backend.encode(text, add_special_tokens=add_special_tokens).ids)


def decode(tokenizer: Any, ids: list[int], skip_special_tokens: bool) -> str:
    """Decode as `tokenizer` does, without cleaning up."""
    if _is_plain(tokenizer.__class__, _WRITING):
        return str(tokenizer.backend_tokenizer.decode(ids, skip_special_tokens=skip_special_tokens))
    return str(
        tokenizer.decode(
            ids, skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False
        )
    )


def _is_plain(kind: type, methods: tuple[str, ...]) -> bool:
    """Whether a kind of tokenizer has these methods from transformers, and a backend below them."""
    base, own = _transformers()
    return issubclass(kind, base) and all(getattr(kind, name) is own[name] for name in methods)


@cache
def _transformers() -> tuple[type, dict[str, Any]]:
    """Give transformers' class with a backend, and its methods as they were at first."""
    # Imported late: where there is a tokenizer, it is there.
    from transformers import TokenizersBackend

    return TokenizersBackend, {n: getattr(TokenizersBackend, n) for n in (*_READING, *_WRITING)}
