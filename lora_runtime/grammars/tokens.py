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
            table = self._table(backend, renumbering)
        except Exception as error:
            raise refusal(f"is not supported with this tokenizer: {error}"[:300]) from error
        with self._lock:
            self._tables[key] = backend, table  # the object stays, and its id with it
            while len(self._tables) > _KEPT:
                self._tables.popitem(last=False)
        return table

    def _table(self, backend: Any, renumbering: Any) -> LLTokenizer:
        plain = copy.copy(backend)
        plain.no_padding()
        plain.no_truncation()
        added = plain.get_added_tokens_decoder()
        vocabulary = plain.get_vocab(with_added_tokens=False)
        most = max([*added, *vocabulary.values(), *self._eos])
        table = LLTokenizer(plain.to_str(), n_vocab=most + 1, eos_token=self._eos)
        # llguidance takes all added tokens for special ones, which are no text.
        texts = {index: t.content.encode() for index, t in added.items() if not t.special}
        if not texts and not renumbering:
            return table
        own: dict[int, int] = renumbering.own if renumbering else {}
        inner: dict[int, int] = renumbering.inner if renumbering else {}
        tokens, special = [], []
        for index in range(max([most, *own.values()]) + 1):
            at = inner.get(index, index)
            tokens.append(texts.get(at) or (table.decode_bytes([at]) if at <= most else b""))
            if at <= most and at not in texts and table.is_special_token(at):
                special.append(index)
        return LLTokenizer(
            TokenizerWrapper(_Tokens(tokens, special, self._eos[0])), eos_token=self._eos
        )


class _Tokens:
    """Tokens by id, as TokenizerWrapper wants them."""

    def __init__(self, tokens: list[bytes], special: list[int], eos: int) -> None:
        self.tokens, self.special_token_ids = tokens, special
        self.eos_token_id, self.bos_token_id = eos, None

    def __call__(self, text: str) -> list[int]:
        raise NotImplementedError  # grammars are free to be spelled in any way
