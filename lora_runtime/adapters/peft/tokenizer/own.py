"""An adapter's own tokenizer, made of the base's and of what a worker has read."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from tokenizers import Tokenizer

from ....errors import AdapterError
from .base import BaseTokenizer
from .behaviour import MAX_AROUND, backend_of
from .parts import MAX_TOKEN_CHARS, check_counts
from .pipeline import PARTS, build, check_parts, token
from .renumbered import Renumbering, renumber

_MAX_ID = 1 << 31
_NORMALIZED = 1 << 3


def with_template(base: Any, template: str) -> Any:
    """The base's tokenizer under another chat template."""
    own = copy.copy(base)
    own.chat_template = template
    return own


def make_own(base: Any, known: BaseTokenizer, facts: dict[str, Any]) -> Any:
    """The base's tokenizer as far as the adapter's does the same, and the adapter's for the rest;
    None where that changes nothing.

    Its model is the base's object, and so are parts of the pipeline that are equal. Raises
    AdapterError for what cannot be made of the base's.
    """
    _check_types(facts)
    check_counts(facts.get("added", []), [content for _, content, _ in known.added])
    _check_class(known, facts)
    special, template = facts["special"], facts["template"] or base.chat_template
    response = facts["response_template"] or response_template(base)
    if response == response_template(base) and not _differs(base, known, facts, template):
        return None
    own = copy.copy(base)
    own.chat_template, own.response_template = template, response
    names = [*base.SPECIAL_TOKENS_ATTRIBUTES, *special.keys() - {*base.SPECIAL_TOKENS_ATTRIBUTES}]
    # Beside transformers' own way to set them, which adds tokens to the pipeline.
    own.__dict__["SPECIAL_TOKENS_ATTRIBUTES"] = names
    own.__dict__["_special_tokens_map"] = {name: special.get(name) for name in names}
    own.split_special_tokens = facts["split_special"]
    backend = backend_of(base)
    if backend is not None:
        check_parts(facts["parts"], known.parts)
        own._tokenizer, renumbering = _backend(backend, facts)
        if renumbering:
            renumber(own, renumbering)
    return own


def response_template(tokenizer: Any) -> Any:
    """What tells the parts of an answer apart; None if nothing does."""
    return getattr(tokenizer, "response_template", None)


def _differs(base: Any, known: BaseTokenizer, facts: Mapping[str, Any], template: Any) -> bool:
    """Whether any text, or any ids, become something else by it than by the base's."""
    special = facts["special"]
    named = {name for name in {*special, *base.special_tokens_map} if name in str(template or "")}
    if known.pipeline and (
        facts["parts"]
        or not facts["is_around_base"]
        or facts["absent"]
        or _effective(facts["added"], known) != _effective(known.added, known)
    ):
        return True
    return (
        template != base.chat_template
        or facts["split_special"] != bool(base.split_special_tokens)
        or any(special.get(n) != base.special_tokens_map.get(n) for n in {"eos_token", *named})
    )


def _effective(added: list[list[Any]], known: BaseTokenizer) -> list[list[Any]]:
    """Added tokens without the flag of normalized ones where nothing is normalized."""
    if known.parts["normalizer"] is not None:
        return added
    return [[index, content, flags & ~_NORMALIZED] for index, content, flags in added]


def _check_class(known: BaseTokenizer, facts: Mapping[str, Any]) -> None:
    if known.pipeline and facts["methods"] != known.methods:
        other = next((m for m in facts["methods"] if m not in known.methods), "other methods")
        raise AdapterError(
            f"the adapter's tokenizer works by {other}, which is not the base's: not supported"
        )
    if facts["cleans_up"] and not known.cleans_up:
        raise AdapterError(
            "the adapter's tokenizer has clean_up_tokenization_spaces, and the base's has not: not "
            "supported"
        )
    if known.pipeline:
        return
    if facts["size"] != known.size:
        raise AdapterError(
            "the adapter's tokenizer adds tokens, and the base's runs in Python: not supported"
        )
    settings = facts["settings"]
    if other := sorted(
        name
        for name in settings.keys() | known.settings.keys()
        if settings.get(name) != known.settings.get(name)
    ):
        raise AdapterError(
            f"the adapter's tokenizer has another {other[0]!r} than the base's, which runs in "
            "Python: not supported"
        )


def _check_types(facts: dict[str, Any]) -> None:
    """Check what came out of a worker, which may be in a stranger's hands by now."""
    template, names = facts["template"], [facts["special"]]
    response = facts["response_template"], facts["response_note"]
    if not isinstance(template, str | None):
        names.append(template)
    around, parts = facts.get("around"), facts.get("parts", {})
    added, absent = facts.get("added", []), facts.get("absent", [])
    ids = [*(i for i, _, _ in added), *absent, *(i for group in around or () for i in group)]
    if not (
        all(isinstance(text, str) for group in names for item in group.items() for text in item)
        and all(isinstance(facts[name], int) for name in ("size", "split_special", "cleans_up"))
        and isinstance(facts.get("is_around_base", True), bool)
        and isinstance(response[0], dict | None)
        and isinstance(response[1], str)
        and all(isinstance(text, str) for text in (*facts["methods"], *facts.get("batches", ())))
        and isinstance(facts.get("settings", {}), dict)
        and all(part in PARTS for part in parts)
        and (around is None or (len(around) == 2 and sum(map(len, around)) <= MAX_AROUND))
        and all(type(i) is int and 0 <= i < _MAX_ID for i in ids)
        and all(isinstance(t, str) and type(f) is int and 0 <= f < 32 for _, t, f in added)
    ):
        raise AdapterError("the adapter's tokenizer was not read: its worker gave something else")
    # A template, the base's too, may write one behind each message.
    if long := [name for name, text in facts["special"].items() if len(text) > MAX_TOKEN_CHARS]:
        raise AdapterError(
            f"the adapter's tokenizer has a token {long[0][:80]!r} of over {MAX_TOKEN_CHARS} characters"
        )


def _backend(base: Tokenizer, facts: dict[str, Any]) -> tuple[Tokenizer, Renumbering]:
    """The pipeline, and its ids where they are not the adapter's."""
    added = facts["added"]
    own = build(base, base.model, facts["parts"], None)
    own.add_tokens([token(content, flags) for _, content, flags in added])
    inner = {content: own.token_to_id(content) for _, content, _ in added}
    if lost := [content for content, index in inner.items() if index is None]:
        raise AdapterError(
            f"the adapter's tokenizer has an added token {lost[0][:80]!r}: it has no id"
        )
    renumbering = Renumbering(
        {inner[content] or 0: index for index, content, _ in added}, frozenset(facts["absent"])
    )
    _check_free(base, own, renumbering)
    if renumbering or not facts["is_around_base"]:
        if facts["around"] is None:
            raise AdapterError(
                "the adapter's tokenizer has other ids than the base's, whose post_processor is not known"
            )
        ids = [[renumbering.added(i) for i in group] for group in facts["around"]]
        own.post_processor = build(own, base.model, {}, ids).post_processor
    return own, renumbering


def _check_free(base: Tokenizer, own: Tokenizer, renumbering: Renumbering) -> None:
    """Check that no id of the pipeline stands for a token of its model as well."""
    for inner, index in renumbering.own.items():
        if base.model.id_to_token(inner) not in (None, content := own.id_to_token(inner)):
            raise AdapterError(
                f"the adapter's tokenizer has {str(content)[:80]!r} as {index}, where the base's would "
                f"put it at {inner}, which is another token's"
            )
