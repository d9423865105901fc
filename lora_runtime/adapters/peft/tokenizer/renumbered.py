"""Tokenizers whose pipeline numbers some added tokens otherwise than their adapter does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_NONE = (1 << 32) - 1
"""Id that no pipeline has a token for: such ones give no text."""
_ALIASES = 1 << 31
"""First of the ids that no pipeline has, which stand for others that it has for other tokens."""


class Renumbering:
    """Ids of the pipeline by the adapter's, and the other way round.

    A pipeline around the base's model gives the next free id to a token that the model lacks, also
    to one that stands under a base token's id.
    """

    def __init__(self, own: Mapping[int, int], absent: frozenset[int]) -> None:
        """Take the adapter's ids by the pipeline's, and those that the adapter has no token for."""
        self.own = {inner: index for inner, index in own.items() if inner != index}
        taken = self.own.keys() - own.values()
        self.inner = {
            **dict.fromkeys(taken | absent, _NONE),
            **{index: inner for inner, index in self.own.items()},
        }

    def added(self, index: int) -> int:
        """Id to be added by the pipeline for the adapter's `index` to come out of it."""
        inner = self.inner.get(index, _NONE)
        if inner == _NONE and index in self.own:
            inner = _ALIASES + index
            self.own[inner] = index
        return index if inner == _NONE else inner

    def __bool__(self) -> bool:
        return bool(self.own or self.inner)


class _Renumbered:
    """Mixin before a class of transformers."""

    renumbering: Renumbering

    def _encode_plus(self, *args: Any, **kwargs: Any) -> Any:
        encoding = super()._encode_plus(*args, **kwargs)  # type: ignore[misc]
        own = self.renumbering.own
        ids = encoding["input_ids"]
        if ids and isinstance(ids[0], list):
            encoding["input_ids"] = [[own.get(i, i) for i in row] for row in ids]
        else:
            encoding["input_ids"] = [own.get(i, i) for i in ids]
        return encoding

    def _decode(self, token_ids: Any, *args: Any, **kwargs: Any) -> str:
        inner = self.renumbering.inner
        ids = [token_ids] if isinstance(token_ids, int) else token_ids
        return super()._decode([inner.get(i, i) for i in ids], *args, **kwargs)  # type: ignore[misc]

    def _convert_token_to_id_with_added_voc(self, token: str) -> int:
        index = super()._convert_token_to_id_with_added_voc(token)  # type: ignore[misc]
        return self.renumbering.own.get(index, index)

    def _convert_id_to_token(self, index: int) -> str | None:
        inner = self.renumbering.inner
        return super()._convert_id_to_token(inner.get(index, index))  # type: ignore[misc]

    def convert_ids_to_tokens(self, ids: Any, *args: Any, **kwargs: Any) -> Any:
        inner = self.renumbering.inner
        wanted = inner.get(ids, ids) if isinstance(ids, int) else [inner.get(i, i) for i in ids]
        return super().convert_ids_to_tokens(wanted, *args, **kwargs)  # type: ignore[misc]

    @property
    def added_tokens_decoder(self) -> dict[int, Any]:
        found = super().added_tokens_decoder  # type: ignore[misc]
        return {self.renumbering.own.get(i, i): token for i, token in found.items()}

    def get_vocab(self) -> dict[str, int]:
        own, inner = self.renumbering.own, self.renumbering.inner
        vocabulary = super().get_vocab()  # type: ignore[misc]
        return {
            token: own.get(i, i)
            for token, i in vocabulary.items()
            if i in own or inner.get(i) != _NONE
        }


def renumber(tokenizer: Any, renumbering: Renumbering) -> None:
    """Let a tokenizer have its adapter's ids."""
    kind = type(tokenizer)
    tokenizer.__class__ = type(kind.__name__, (_Renumbered, kind), {})
    tokenizer.renumbering = renumbering
