"""Parts of a pipeline that are built from an adapter's own description: kinds whose work on any text
is bounded, and which never panic."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from tokenizers import AddedToken, Tokenizer

from ....errors import AdapterError
from ..files import shown

PARTS = ("normalizer", "pre_tokenizer", "decoder")
FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
"""Flags of an added token, by the bits of a number from the lowest."""
_MAX_STEPS = 32
_MAX_CHARS = 16
"""Characters of a text that a step finds or writes."""
_MAX_GROWTH = 16
"""Times that all steps on a text's way may make it longer: each may multiply what those before made."""
_REWRITES: tuple[dict[str, int], ...] = (
    {"NFC": 3, "NFD": 4},
    {"NFKC": 18, "NFKD": 18, "Precompiled": 18},
    {"Lowercase": 2},
)
"""Characters that one becomes, at most: once, and again only of what was written since."""
_WRITES = ("Replace", "Prepend", "ByteLevel")
_MEMBERS = {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers", "decoder": "decoders"}


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= _MAX_CHARS


def _is_char(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 1


def _is_plain(value: Any) -> bool:
    """Whether a pattern is a text that is looked for, and no regular expression."""
    text = value.get("String") if isinstance(value, dict) and len(value) == 1 else None
    return _is_text(text) and bool(text)


def _one_of(*values: str) -> Callable[[Any], bool]:
    return lambda value: value in values


_BEHAVIOR = _one_of(
    "Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"
)  # of what was found
_Checks = dict[str, Callable[[Any], bool]]
_BYTE_LEVEL: _Checks = {
    "add_prefix_space": _is_bool,
    "trim_offsets": _is_bool,
    "use_regex": _is_bool,
}
_METASPACE: _Checks = {
    "replacement": _is_char,
    "prepend_scheme": _one_of("first", "never", "always"),
    "split": _is_bool,
}
_REPLACE: _Checks = {"pattern": _is_plain, "content": _is_text}
_KINDS: dict[str, dict[str, _Checks]] = {
    "normalizer": {
        **{name: {} for name in ("NFC", "NFD", "NFKC", "NFKD", "Nmt", "Lowercase", "StripAccents")},
        "ByteLevel": {},
        "BertNormalizer": {
            "clean_text": _is_bool,
            "handle_chinese_chars": _is_bool,
            "strip_accents": lambda value: value is None or _is_bool(value),
            "lowercase": _is_bool,
        },
        "Strip": {"strip_left": _is_bool, "strip_right": _is_bool},
        "Prepend": {"prepend": _is_text},
        "Replace": _REPLACE,
    },
    "pre_tokenizer": {
        **{name: {} for name in ("BertPreTokenizer", "UnicodeScripts")},
        **{name: {} for name in ("Whitespace", "WhitespaceSplit")},
        "ByteLevel": _BYTE_LEVEL,
        "CharDelimiterSplit": {"delimiter": _is_char},
        "Digits": {"individual_digits": _is_bool},
        "Metaspace": _METASPACE,
        "Punctuation": {"behavior": _BEHAVIOR},
        "Split": {"pattern": _is_plain, "behavior": _BEHAVIOR, "invert": _is_bool},
    },
    "decoder": {
        **{name: {} for name in ("ByteFallback", "Fuse")},
        "BPEDecoder": {"suffix": _is_text},
        "ByteLevel": _BYTE_LEVEL,
        "Metaspace": _METASPACE,
        "Replace": _REPLACE,
        # Cutting at the end of a text that is empty ends in a panic.
        "Strip": {
            "content": _is_char,
            "start": lambda value: type(value) is int and 0 <= value <= _MAX_CHARS,
            "stop": lambda value: type(value) is int and value == 0,
        },
        "WordPiece": {"prefix": _is_text, "cleanup": _is_bool},
    },
}
_OF_A_FILE = ("Split", "Replace", "Precompiled")
"""Kinds that may hold a regular expression or a table: only those of the base itself are taken."""


def steps_of(part: str, described: Any) -> Iterator[dict[str, Any]]:
    """Steps of a part's description, sequences in sequences laid out. Raises AdapterError."""
    left = [described]
    for _ in range(_MAX_STEPS * 2):
        if not left:
            return
        one = left.pop(0)
        if one is None:
            continue
        if not isinstance(one, dict) or not isinstance(one.get("type"), str):
            raise _refused(part, "it is not described")
        if one["type"] != "Sequence":
            yield one
            continue
        members = one.get(_MEMBERS[part])
        if not isinstance(members, list):
            raise _refused(part, "it is not described")
        left[:0] = members[: _MAX_STEPS * 2 + 1]
    raise _refused(part, f"it has over {_MAX_STEPS} steps")


def check_parts(parts: Mapping[str, Any], base: Mapping[str, Any]) -> None:
    """Check that an adapter's parts can be built here. Raises AdapterError naming the step.

    `base`: descriptions of the base's, whose own tables and regular expressions may be used.
    """
    for part, described in parts.items():
        _check_part(part, described, base[part])
    for way in (PARTS[:2], PARTS[2:]):  # of a text, and of tokens
        own = [part for part in way if part in parts]
        growth, of_base = (math.prod(_growth(p, by[p]) for p in own) for by in (parts, base))
        if growth > max(_MAX_GROWTH, of_base):
            raise _refused(" and ".join(own), f"it makes texts over {_MAX_GROWTH} times as long")


def _check_part(part: str, described: Any, base: Any) -> None:
    of_base = list(steps_of(part, base))
    steps = list(steps_of(part, described))
    if len(steps) > _MAX_STEPS:
        raise _refused(part, f"it has over {_MAX_STEPS} steps")
    for step in steps:
        kind = step["type"]
        if kind in _OF_A_FILE and step in of_base:
            continue
        checks = _KINDS[part].get(kind)
        fields = {name: value for name, value in step.items() if name != "type"}
        if checks is None:
            raise _refused(part, f"{shown(kind)} is not supported")
        if fields.keys() != checks.keys():
            raise _refused(part, f"{shown(kind)} has the fields {shown(sorted(fields))}")
        if wrong := [name for name, check in checks.items() if not check(fields[name])]:
            raise _refused(part, f"{wrong[0]} of {shown(kind)} is {shown(fields[wrong[0]])}")


def differ(part: str, one: Any, other: Any) -> bool:
    """Whether two descriptions of a part do something else with ids and texts."""
    if one == other:
        return False
    first, second = (
        [{k: v for k, v in step.items() if k not in _without_effect(part, step)} for step in steps]
        for steps in (steps_of(part, one), steps_of(part, other))
    )
    return first != second


def _without_effect(part: str, step: Mapping[str, Any]) -> Sequence[str]:
    if part == "decoder" and step["type"] == "ByteLevel":
        return tuple(_BYTE_LEVEL)
    return ("trim_offsets",)


def _growth(part: str, described: Any) -> float:
    """Times that a part's steps make a text longer, at most; without what a unicode form does to
    what comes in, which is no more than one step of the base's may do."""
    growth = 1.0
    been: set[int] = set()
    again: set[int] = set()
    for step in steps_of(part, described):
        kind = step["type"]
        for group, factors in enumerate(_REWRITES):
            if kind in factors:
                growth *= factors[kind] if group in again else 1
                been.add(group)
                again.discard(group)
        if kind in _WRITES:
            again |= been
        growth *= _multiplies(part, step)
    return growth


def _multiplies(part: str, step: Mapping[str, Any]) -> float:
    """Characters that a step makes of one, at most, each time."""
    kind = step["type"]
    if kind == "Replace":  # a regular expression, the base's, may find as little as a character
        return max(1.0, len(step["content"]) / len(step["pattern"].get("String", " ")))
    if kind == "ByteLevel":
        return 1 if part == "decoder" else 4
    if kind == "BertNormalizer":  # spaces around
        return 3
    if kind == "Prepend":
        return max(2, len(step["prepend"]))
    if kind == "BPEDecoder":  # a space behind each character
        return 1 if step["suffix"] else 2
    is_before_each = kind == "WordPiece" or step.get("prepend_scheme") == "always"
    return 2 if is_before_each and not (kind == "Metaspace" and part == "decoder") else 1


def _refused(part: str, why: str) -> AdapterError:
    return AdapterError(f"the adapter's tokenizer has another {part} than the base's: {why}")


def build(source: Tokenizer, model: Any, parts: Mapping[str, Any], around: Any) -> Tokenizer:
    """A pipeline around `model`: `parts` by their checked description, the others from `source`.

    `around`: [ids before, ids behind] a text; None as `source` has it.
    """
    empty: dict[str, Any] = {"type": "BPE", "vocab": {}, "merges": []}
    whole: dict[str, Any] = {"version": "1.0", "added_tokens": [], "model": empty}
    described = Tokenizer.from_str(json.dumps(whole | dict(parts) | _processor(around)))
    own = Tokenizer(model)
    for part in (*PARTS, "post_processor"):
        is_own = around is not None if part == "post_processor" else part in parts
        if (value := getattr(described if is_own else source, part)) is not None:
            setattr(own, part, value)
    return own


def token(content: str, flags: int) -> AddedToken:
    """An added token with flags."""
    return AddedToken(content, **{name: bool(flags >> bit & 1) for bit, name in enumerate(FLAGS)})


def _processor(around: Any) -> dict[str, Any]:
    if around is None:
        return {}
    before, behind = around

    def piece(index: int) -> dict[str, Any]:
        return {"SpecialToken": {"id": str(index), "type_id": 0}}

    text = {"Sequence": {"id": "A", "type_id": 0}}
    made = {
        "type": "TemplateProcessing",
        "single": [*map(piece, before), text, *map(piece, behind)],
        "pair": [text, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {
            str(i): {"id": str(i), "ids": [i], "tokens": [str(i)]} for i in (*before, *behind)
        },
    }
    return {"post_processor": made}
