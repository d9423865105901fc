"""Tokens as llguidance knows them: their bytes, by id, for each tokenizer."""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict
from collections.abc import Collection
from typing import Any

from llguidance import LLTokenizer, TokenizerWrapper

from ..adapters.peft.tokenizer.behaviour import backend_of
from .source import refusal

_KEPT = 8
"""Tokenizers whose tables are kept: each has a few hundred bytes for a token."""


class TokenTables:
    """Tables of the base's tokenizer, and of those that adapters have of their own."""

    def __init__(self, eos_ids: Collection[int]) -> None:
        self._eos = sorted(eos_ids)
        """Ends as llguidance sees them: rows have their own."""
        self._lock = threading.Lock()
        self._tables: OrderedDict[int, tuple[Any, LLTokenizer]] = OrderedDict()

    def of(self, tokenizer: Any) -> LLTokenizer:
        """Table of a tokenizer; takes a second for a new one. Raises InvalidRequestError."""
        backend = backend_of(tokenizer)
        if backend is None:
            raise refusal("is not supported with a tokenizer that runs in Python")
        renumbering = getattr(tokenizer, "renumbering", None)
        key = id(backend)  # tokenizers that differ by their template alone share it
        with self._lock:
            if key in self._tables:
                self._tables.move_to_end(key)
                return self._tables[key][1]
        try:
            table = self._table(backend)
            if renumbering:
                table = _renumbered(table, renumbering, self._eos)
        except Exception as error:
            raise refusal(f"is not supported with this tokenizer: {error}"[:300]) from error
        with self._lock:
            self._tables[key] = backend, table  # the object stays, and its id with it
            while len(self._tables) > _KEPT:
                self._tables.popitem(last=False)
        return table

    def _table(self, backend: Any) -> LLTokenizer:
        plain = copy.copy(backend)
        plain.no_padding()
        plain.no_truncation()
        size = max(plain.get_vocab_size(), *(token + 1 for token in self._eos), 0)
        ids = [
            *plain.get_added_tokens_decoder(),
            *plain.get_vocab(with_added_tokens=False).values(),
        ]
        return LLTokenizer(plain.to_str(), n_vocab=max(size, *ids) + 1, eos_token=self._eos)


class _Tokens:
    """Tokens by id, as TokenizerWrapper wants them."""

    def __init__(self, tokens: list[bytes], special: list[int], eos: int) -> None:
        self.tokens, self.special_token_ids = tokens, special
        self.eos_token_id, self.bos_token_id = eos, None

    def __call__(self, text: str) -> list[int]:
        raise NotImplementedError  # no prompt is tokenized here


def _renumbered(table: LLTokenizer, renumbering: Any, eos: list[int]) -> LLTokenizer:
    """Table of a tokenizer whose ids are not its pipeline's."""
    size = max([table.vocab_size, *(index + 1 for index in renumbering.own.values())])
    tokens, special = [], []
    for index in range(size):
        inner = renumbering.inner.get(index, index)
        is_known = inner < table.vocab_size
        tokens.append(table.decode_bytes([inner]) if is_known else b"")
        if is_known and table.is_special_token(inner):
            special.append(index)
    return LLTokenizer(TokenizerWrapper(_Tokens(tokens, special, eos[0])), eos_token=eos)
