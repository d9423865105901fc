"""Tokens as llguidance knows them: their bytes, by id, for each tokenizer."""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict
from collections.abc import Collection
from typing import Any

from llguidance import LLTokenizer, TokenizerWrapper

from ..adapters.peft.tokenizer.behaviour import backend_of
from ..api.structured import StructuredAnswer
from ..errors import ends_thread
from .grammar import Grammar
from .schemas import refusal

_KEPT = 8
"""Tokenizers whose tables are kept: each has a few hundred bytes for a token."""
_CACHED_BYTES = 8 << 20
"""Bytes of the texts that are kept for each."""
_ENTRY_BYTES = 1 << 10


class Table:
    """Tokens of one tokenizer, and the grammars that were tried with them."""

    def __init__(self, tokenizer: LLTokenizer) -> None:
        self.tokenizer = tokenizer
        self._lock = threading.Lock()
        self._grammars: OrderedDict[StructuredAnswer, Grammar] = OrderedDict()
        self._bytes = 0

    def grammar(self, answer: StructuredAnswer) -> Grammar | None:
        """The grammar of an answer, if it was tried and is kept."""
        with self._lock:
            if (made := self._grammars.get(answer)) is not None:
                self._grammars.move_to_end(answer)
            return made

    def keep(self, answer: StructuredAnswer, made: Grammar) -> None:
        """Keep a grammar, and let go of those that were not wanted for long."""
        with self._lock:
            self._bytes += 0 if answer in self._grammars else _size(answer, made)
            self._grammars[answer] = made
            while self._bytes > _CACHED_BYTES and len(self._grammars) > 1:
                self._bytes -= _size(*self._grammars.popitem(last=False))


def _size(answer: StructuredAnswer, made: Grammar) -> int:
    return _ENTRY_BYTES + answer.size + len(made.text)


class TokenTables:
    """Tables of the base's tokenizer, and of those that adapters have of their own."""

    def __init__(self, eos_ids: Collection[int]) -> None:
        self._eos = sorted(eos_ids)
        """Ends as llguidance sees them: rows have their own."""
        self._lock = threading.Lock()
        self._tables: OrderedDict[int, tuple[Any, Table]] = OrderedDict()

    def known(self, tokenizer: Any) -> Table | None:
        """Table of a tokenizer, if there is one."""
        key = id(backend_of(tokenizer))  # tokenizers that differ by their template alone share it
        with self._lock:
            if key not in self._tables:
                return None
            self._tables.move_to_end(key)
            return self._tables[key][1]

    def of(self, tokenizer: Any) -> Table:
        """Table of a tokenizer; takes a second for a new one. Raises InvalidRequestError."""
        if (known := self.known(tokenizer)) is not None:
            return known
        backend = backend_of(tokenizer)
        if backend is None:
            raise refusal("is not supported with a tokenizer that runs in Python")
        try:
            table = Table(self._table(backend, getattr(tokenizer, "renumbering", None)))
        except BaseException as error:  # panics of Rust's code too
            if ends_thread(error):
                raise
            raise refusal(f"is not supported with this tokenizer: {error}"[:300]) from error
        with self._lock:
            self._tables[id(backend)] = backend, table  # the object stays, and its id with it
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
