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
class Endings:
    """What ends answers."""

    ids: frozenset[int]
    """Ends of a sequence; of an adapter, beside the base's."""
    turns: frozenset[int]
    """Ends of a turn, no ends of a sequence: of answers to messages."""
    notes: tuple[str, ...]


def endings(
    own: Any, turn: tuple[int, str] | None, generation: Ends, of_base: frozenset[int]
) -> Endings:
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
    whose: str, turn: tuple[int, str] | None, ids: frozenset[int]
) -> tuple[frozenset[int], tuple[str, ...]]:
    if turn is None or turn[0] in ids:
        return frozenset(), ()
    index, text = turn
    note = (
        f"{whose} chat template ends a turn with {text!r} ({index}), which is no end-of-sequence "
        "token: it ends answers to messages, and not those to other prompts"
    )
    return frozenset({index}), (note,)


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


def turn_end(tokenizer: Any, limits: WorkLimits | None = None) -> tuple[int, str] | None:
    """The added token that the chat template writes right behind an answer, with its text.

    `limits`: the template is a stranger's, and rendered in a worker; one that fails has none.
    """
    try:
        template = tokenizer.get_chat_template() if tokenizer.chat_template else ""
    except ValueError:  # several, of which none is the default
        template = ""
    if not template:
        return None
    tail: Any = ""
    if limits is None:
        with contextlib.suppress(Exception):  # whatever a template does with a conversation
            tail = _tail(tokenizer.apply_chat_template(_CHAT, tokenize=False))
    else:
        limits = replace(limits, seconds=min(limits.seconds, _SECONDS))
        special = tokenizer.special_tokens_map
        with contextlib.suppress(WorkError), WORKERS.worker() as worker:
            tail = worker.ask(BEHIND, template, special, limits=limits, max_bytes=_MAX_TAIL * 8)
    if not isinstance(tail, str) or len(tail) > _MAX_TAIL or not tail.strip():
        return None
    tail = tail.lstrip().encode(errors="replace").decode()
    ids = tokenizer(tail, add_special_tokens=False, verbose=False)["input_ids"]
    token = tokenizer.added_tokens_decoder.get(ids[0]) if ids else None
    return (ids[0], str(token)) if token is not None else None
