"""What ends an adapter's answers: its ends of a sequence, and what its template writes behind one."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from typing import Any

from ....foreign.process import WORKERS, WorkError, WorkLimits
from ..generation import Ends

_SECONDS = 2.0
_MAX_TAIL = 1000
_QUESTION, _ANSWER = "loramux-question", "loramux-answer"
"""Stand for texts where only what the template puts behind them matters."""
BEHIND = f"{__name__}:behind_an_answer"


@dataclass(frozen=True)
class TurnEnd:
    """Token that ends a turn of a chat template, if there is one, with its text and notes."""

    token_id: int | None = None
    text: str = ""
    notes: tuple[str, ...] = ()
    known: bool = True
    """False if a worker did not come to an end, and may another time."""


@dataclass(frozen=True)
class Endings:
    """What ends answers."""

    ids: frozenset[int]
    """Ends of a sequence; of an adapter, beside the base's."""
    turns: frozenset[int]
    """Ends of a turn, no ends of a sequence: of answers to messages."""
    notes: tuple[str, ...]


def endings(own: Any, turn: TurnEnd, generation: Ends, of_base: frozenset[int]) -> Endings:
    """Put together what the adapter's tokenizer, if it has its own, and its generation config say."""
    eos = None if own is None else own.eos_token_id
    ids = generation.ids | ({eos} if eos is not None else set())
    turns, notes = _turns("its", turn, ids | of_base)
    return Endings(ids, turns, generation.notes + notes)


def base_endings(tokenizer: Any, ids: frozenset[int]) -> Endings:
    """The same of a base with the ends of a sequence `ids`; its template is the operator's."""
    turns, notes = _turns("the base's", turn_end(tokenizer), ids)
    return Endings(ids, turns, notes)


def _turns(
    whose: str, turn: TurnEnd, ids: frozenset[int]
) -> tuple[frozenset[int], tuple[str, ...]]:
    if turn.token_id is None or turn.token_id in ids:
        return frozenset(), turn.notes
    note = (
        f"{whose} chat template ends a turn with {turn.text!r} ({turn.token_id}), which is no "
        "end-of-sequence token: it ends answers to messages, and not those to other prompts"
    )
    return frozenset({turn.token_id}), (*turn.notes, note)


def behind_an_answer(template: str, special: dict[str, str]) -> str:
    """What a template writes behind the last answer of a conversation; inside a worker."""
    from transformers.utils.chat_template_utils import render_jinja_template

    arguments: dict[str, Any] = {"conversations": [_CHAT], "chat_template": template}
    texts: Any = render_jinja_template(**arguments, **special)  # type: ignore[arg-type]
    return _tail(texts[0][0])


_CHAT = [{"role": "user", "content": _QUESTION}, {"role": "assistant", "content": _ANSWER}]


def _tail(text: str) -> str:
    _, found, tail = text.rpartition(_ANSWER)
    return tail[:_MAX_TAIL] if found else ""


def turn_end(tokenizer: Any) -> TurnEnd:
    """The added token that a chat template, the operator's own, writes right behind an answer."""
    tail = ""
    if _template(tokenizer):
        with contextlib.suppress(Exception):  # whatever a template does with a conversation
            tail = _tail(tokenizer.apply_chat_template(_CHAT, tokenize=False))
    return _first_token(tokenizer, tail)


def foreign_turn_end(tokenizer: Any, limits: WorkLimits) -> TurnEnd:
    """The same for the template of a stranger, which a worker renders under `limits`."""
    if not (template := _template(tokenizer)):
        return TurnEnd()
    limits = replace(limits, seconds=min(limits.seconds, _SECONDS))
    arguments = (template, tokenizer.special_tokens_map)
    try:
        with WORKERS.worker() as worker:
            tail = worker.ask(BEHIND, *arguments, limits=limits, max_bytes=_MAX_TAIL * 8)
    except WorkError as error:
        note = f"what ends a turn of its chat template is not known: {error}"
        return TurnEnd(notes=(note,), known=False)
    if not isinstance(tail, str) or len(tail) > _MAX_TAIL:
        return TurnEnd()
    return _first_token(tokenizer, tail.encode(errors="replace").decode())


def _template(tokenizer: Any) -> str:
    try:
        return tokenizer.get_chat_template() if tokenizer.chat_template else ""
    except ValueError:  # several, of which none is the default
        return ""


def _first_token(tokenizer: Any, tail: str) -> TurnEnd:
    if not tail.strip():
        return TurnEnd()
    ids = tokenizer(tail.lstrip(), add_special_tokens=False, verbose=False)["input_ids"]
    token = tokenizer.added_tokens_decoder.get(ids[0]) if ids else None
    return TurnEnd() if token is None else TurnEnd(ids[0], str(token))
