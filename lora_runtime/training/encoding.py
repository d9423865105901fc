"""Rows to token ids, prompts exactly as the server would make them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from ..errors import TrainingError
from .data import Row

_NAMED = 5
_ANSWER = "loramux-answer"
"""Stands for an answer where only what the template puts behind it matters."""


@dataclass(frozen=True)
class Example:
    """Token ids of prompt and completion; `start` is the first one of the completion, where the
    loss begins."""

    ids: tuple[int, ...]
    start: int
    row: Row


@dataclass(frozen=True)
class Encoded:
    """Examples of one file, and the lines of rows that did not fit."""

    examples: tuple[Example, ...]
    cut: tuple[int, ...] = ()
    skipped: tuple[int, ...] = ()


class Encoder:
    """Tokenizes rows. `ends`: ids that end an answer when the base is served."""

    def __init__(self, tokenizer: Any, ends: frozenset[int], vocab_size: int) -> None:
        if not ends:
            raise TrainingError(
                "neither tokenizer nor generation config has an end token: answers could not end"
            )
        self._tokenizer = tokenizer
        self._ends = ends
        self._vocab_size = vocab_size
        eos = tokenizer.eos_token_id
        self._end = min(ends) if eos is None else eos

    def encode(self, row: Row, where: str) -> Example:
        """Raises TrainingError naming `where` for what the tokenizer or its chat template refuses."""
        chat = not isinstance(row.prompt, str)
        text = row.prompt if isinstance(row.prompt, str) else self._render(row.prompt, where)
        ending = "" if isinstance(row.prompt, str) else self._ending(row.prompt, where)
        prompt = self._ids(text, special=not chat)
        if not prompt:
            raise TrainingError(
                f"{where}: the prompt has no tokens, so nothing leads to the completion"
            )
        if self._ends & set(self._ids(row.completion, special=False)[:-1]):
            raise TrainingError(f"{where}: the completion has an end token before its end")
        completion = self._completion(text, prompt, row.completion + ending, special=not chat)
        ids = (*prompt, *self._ended(completion))
        if bad := next((t for t in ids if not 0 <= t < self._vocab_size), None):
            raise TrainingError(
                f"{where}: token id {bad} is outside the base's vocabulary of {self._vocab_size}"
            )
        return Example(ids, len(prompt), row)

    def _render(self, messages: Sequence[dict[str, str]], where: str, whole: bool = False) -> str:
        if not self._tokenizer.chat_template:
            raise TrainingError(
                f"{where}: the base's tokenizer has no chat template: use prompt and completion"
            )
        try:
            return self._tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=not whole
            )
        except (TemplateError, ValueError, TypeError) as error:
            raise TrainingError(
                f"{where}: the chat template refuses the messages: {error}"
            ) from error

    def _ending(self, prompt: Sequence[dict[str, str]], where: str) -> str:
        """What the template puts behind an answer, if that ends it when served (<|im_end|>,
        <end_of_turn> ...)."""
        whole = self._render(
            [*prompt, {"role": "assistant", "content": _ANSWER}], where, whole=True
        )
        _, found, ending = whole.rpartition(_ANSWER)
        return ending if found and self._ends & set(self._ids(ending, special=False)) else ""

    def _completion(
        self, prompt_text: str, prompt: list[int], completion: str, special: bool
    ) -> list[int]:
        """Tokenized behind the prompt where the prompt's own ids stay as they are, else alone.

        Alone, some tokenizers would put a space before it; together, others merge across the
        border.
        """
        together = self._ids(prompt_text + completion, special)
        if together[: len(prompt)] == prompt:
            return together[len(prompt) :]
        return self._ids(completion, special=False)

    def _ended(self, completion: list[int]) -> list[int]:
        """Cut behind the first end token, which the server stops at; one is added where there is
        none."""
        end = next((i for i, t in enumerate(completion) if t in self._ends), None)
        return [*completion, self._end] if end is None else completion[: end + 1]

    def _ids(self, text: str, special: bool) -> list[int]:
        return self._tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"]


def encode_rows(
    encoder: Encoder, rows: Iterable[Row], path: Path, max_length: int, long_rows: str
) -> Encoded:
    """All rows of a file. Raises TrainingError for rows over `max_length` where `long_rows` is
    refuse.

    cut keeps a row's first `max_length` tokens: it learns no ending. A row whose whole completion
    lies behind them is skipped.
    """
    examples, cut, skipped = [], [], []
    long: list[Example] = []
    for row in rows:
        example = encoder.encode(row, f"{path}:{row.line}")
        if len(example.ids) <= max_length:
            examples.append(example)
            continue
        long.append(example)
        if long_rows == "cut" and example.start < max_length:
            examples.append(Example(example.ids[:max_length], example.start, row))
            cut.append(row.line)
        else:
            skipped.append(row.line)
    if long and long_rows == "refuse":
        named = ", ".join(f"line {e.row.line} has {len(e.ids)}" for e in long[:_NAMED])
        more = f" and {len(long) - _NAMED} more" if len(long) > _NAMED else ""
        raise TrainingError(
            f"{path}: rows longer than {max_length} tokens: {named}{more}; cut or skip them "
            "(long_rows), or raise max_length"
        )
    if not examples:
        raise TrainingError(
            f"{path}: every row is longer than {max_length} tokens: nothing is left"
        )
    return Encoded(tuple(examples), tuple(cut), tuple(skipped))
