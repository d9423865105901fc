"""An adapter's own tokenizer, made of the base's and of what a worker has read."""

from __future__ import annotations

import copy
import json
from typing import Any

from tokenizers import AddedToken, Tokenizer, processors

from ....errors import AdapterError
from .base import backend_of
from .parts import FLAGS, MAX_TOKEN_CHARS


def with_template(base: Any, template: str) -> Any:
    """The base's tokenizer under another chat template."""
    own = copy.copy(base)
    own.chat_template = template
    return own


def make_own(base: Any, facts: dict[str, Any]) -> Any:
    """The base's tokenizer with the adapter's tokens, names of tokens and template.

    Normalizer, pre-tokenizer, model and decoder are the base's objects: nothing is copied but the
    added tokens. Raises AdapterError for tokens that cannot have their ids.
    """
    _check_types(facts)
    own = copy.copy(base)
    own.chat_template = facts["template"] or base.chat_template
    special = facts["special"]
    names = [*base.SPECIAL_TOKENS_ATTRIBUTES, *special.keys() - {*base.SPECIAL_TOKENS_ATTRIBUTES}]
    # Beside transformers' own way to set them, which adds tokens to the pipeline.
    own.__dict__["SPECIAL_TOKENS_ATTRIBUTES"] = names
    own.__dict__["_special_tokens_map"] = {name: special.get(name) for name in names}
    own.split_special_tokens = facts["split_special"]
    backend = backend_of(base)
    if backend is not None:
        own._tokenizer = _backend(backend, facts)
    return own


def _check_types(facts: dict[str, Any]) -> None:
    """Check what came out of a worker, which may be in a stranger's hands by now."""
    template, names = facts["template"], [facts["special"]]
    if not isinstance(template, str | None):
        names.append(template)
    pairs = [pair for group in facts.get("around") or () for pair in group]
    added = facts.get("added", [])
    if not (
        all(isinstance(text, str) for group in names for item in group.items() for text in item)
        and all(isinstance(facts[name], int) for name in ("size", "last_id", "split_special"))
        and all(isinstance(i, int) and isinstance(t, str) and f < 32 for i, t, f in added)
        and all(isinstance(i, int) and isinstance(t, str) for t, i in pairs)
    ):
        raise AdapterError("the adapter's tokenizer was not read: its worker gave something else")
    # A template, the base's too, may write one behind each message.
    if long := [name for name, token in facts["special"].items() if len(token) > MAX_TOKEN_CHARS]:
        raise AdapterError(
            f"the adapter's tokenizer has a token {long[0][:80]!r} of over {MAX_TOKEN_CHARS} characters"
        )


def _backend(base: Tokenizer, facts: dict[str, Any]) -> Tokenizer:
    own = Tokenizer(base.model)
    for part in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
        if (value := getattr(base, part)) is not None:
            setattr(own, part, value)
    if facts["around"] is not None:
        own.post_processor = _post_processor(*facts["around"])
    own.add_tokens([_token(content, flags) for _, content, flags in facts["added"]])
    for index, content, _ in facts["added"]:
        if own.token_to_id(content) != index:
            raise AdapterError(
                f"the adapter's tokenizer has {content[:80]!r} as {index}, where the base's would put "
                f"it at {own.token_to_id(content)}"
            )
    return own


def _token(content: str, flags: int) -> AddedToken:
    return AddedToken(content, **{name: bool(flags >> bit & 1) for bit, name in enumerate(FLAGS)})


def _post_processor(before: list[list[Any]], behind: list[list[Any]]) -> Any:
    """Post-processor that puts [token, id] before and behind a text."""

    def piece(name: str) -> dict[str, Any]:
        return {"SpecialToken": {"id": name, "type_id": 0}}

    text = {"Sequence": {"id": "A", "type_id": 0}}
    single = [*(piece(n) for n, _ in before), text, *(piece(n) for n, _ in behind)]
    made = processors.TemplateProcessing()
    state = {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [text, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {n: {"id": n, "ids": [i], "tokens": [n]} for n, i in [*before, *behind]},
    }
    made.__setstate__(json.dumps(state).encode())
    return made
