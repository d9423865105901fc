"""Tokenizers of adapters that cannot be made of the base's are refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lora_runtime import AdapterError
from lora_runtime.adapters.peft.tokenizer.pipeline import PARTS, check_parts

from ....support.tokenizers import (
    BYTE_LEVEL,
    ENDS,
    LOWER,
    TEXT,
    Change,
    read,
    rename,
    saved,
    sequence,
)

_STEPS = [{"type": "NFC"}] * 33
REFUSED = {
    "normalizer than the base's: pattern of 'Replace'": lambda t: t.update(
        normalizer={"type": "Replace", "pattern": {"Regex": "a*"}, "content": ""}
    ),
    "normalizer than the base's: content of 'Replace'": lambda t: t.update(
        normalizer={"type": "Replace", "pattern": {"String": "a"}, "content": "b" * 17}
    ),
    "normalizer than the base's: it makes texts over 16 times": lambda t: t.update(
        normalizer=sequence("normalizers", *[
            {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 5}
        ] * 2)
    ),
    "normalizer than the base's: it has over 32 steps": lambda t: t.update(
        normalizer=sequence("normalizers", *_STEPS)
    ),
    "pre_tokenizer than the base's: pattern of 'Split'": lambda t: t.update(
        pre_tokenizer={"type": "Split", "pattern": {"Regex": "(([ab])+)+$"}, "invert": False,
                       "behavior": "Isolated"}
    ),
    "decoder than the base's: stop of 'Strip' is 1": lambda t: t.update(
        decoder={"type": "Strip", "content": " ", "start": 0, "stop": 1}
    ),
    "decoder than the base's: 'CTC' is not supported": lambda t: t.update(
        decoder={"type": "CTC", "pad_token": "x", "word_delimiter_token": "y", "cleanup": True}
    ),
    "model than the base's: dropout is 0.5": lambda t: t["model"].update(dropout=0.5),
    "model than the base's: ignore_merges is True": lambda t: t["model"].update(ignore_merges=True),
    "model than the base's: other merges": lambda t: t["model"]["merges"].reverse(),
    "post_processor that is not supported": lambda t: t.update(
        post_processor=ENDS | {"single": [TEXT, TEXT]}
    ),
}  # fmt: skip


@pytest.mark.parametrize(("reason", "change"), REFUSED.items())
def test_what_is_not_bounded_or_not_the_model_s_is_refused_by_name(
    bases: dict[str, Any], tmp_path: Path, reason: str, change: Change
) -> None:
    saved(bases["byte level"], tmp_path, change)
    with pytest.raises(AdapterError, match=reason):
        read(tmp_path, bases["byte level"])


def test_removed_tokens_that_the_model_finds_are_refused(
    bases: dict[str, Any], tmp_path: Path
) -> None:
    """A Unigram model of the base would find the text of the old name as well."""
    saved(bases["unigram"], tmp_path, rename("<reserved_0>", "<my_call>"))
    with pytest.raises(AdapterError, match="'<reserved_0>' as None, the base's as 3"):
        read(tmp_path, bases["unigram"])


def _plain(text: str, content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"String": text}, "content": content}


def _form(name: str) -> dict[str, Any]:
    return {"type": name}


_METASPACE = {"type": "Metaspace", "replacement": "_", "prepend_scheme": "always", "split": True}
_BERT = {
    "type": "BertNormalizer",
    "clean_text": True,
    "handle_chinese_chars": True,
    "strip_accents": None,
    "lowercase": True,
}
MULTIPLYING: dict[str, dict[str, list[dict[str, Any]]]] = {
    "bytes of bytes": {"normalizer": [_form("ByteLevel")] * 3},
    "bytes of bytes of words": {"pre_tokenizer": [BYTE_LEVEL] * 3},
    "spaces around characters": {"normalizer": [_BERT] * 3},
    "beginnings of words": {"pre_tokenizer": [_METASPACE] * 5},
    "beginnings": {"normalizer": [{"type": "Prepend", "prepend": "a"}] * 5},
    "ligatures of letters of ligatures": {
        "normalizer": [_form("NFKD"), _plain("\u0644", "\ufdfa"), _form("NFKC")]
    },
    "accents": {"normalizer": [_form("NFD"), _plain("a", "\u00e1")] * 4},
    "dots of capitals": {"normalizer": [LOWER, _plain("i", "\u0130")] * 6},
    "spaces between characters": {"decoder": [{"type": "BPEDecoder", "suffix": ""}] * 5},
    "both that a text goes through": {
        "normalizer": [_plain("a", "a" * 5)],
        "pre_tokenizer": [BYTE_LEVEL],
    },
}
_MEMBERS = {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers", "decoder": "decoders"}
_NOTHING = dict.fromkeys(PARTS)


def _parts(steps: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    return {part: sequence(_MEMBERS[part], *members) for part, members in steps.items()}


@pytest.mark.parametrize("steps", MULTIPLYING.values(), ids=MULTIPLYING)
def test_steps_that_multiply_each_other_are_refused_unless_they_are_the_base_s(
    steps: dict[str, list[dict[str, Any]]],
) -> None:
    parts = _parts(steps)
    with pytest.raises(AdapterError, match="it makes texts over 16 times as long"):
        check_parts(parts, _NOTHING)
    check_parts(parts, _NOTHING | parts)


def test_steps_as_pipelines_have_them_multiply_nothing() -> None:
    forms = [_form(name) for name in ("NFD", "Lowercase", "StripAccents", "NFC", "NFKC")]
    quotes = [_plain("``", '"'), _plain("''", '"')]
    words = [{"type": "Digits", "individual_digits": True}, BYTE_LEVEL]
    check_parts(_parts({"normalizer": [*forms, *quotes], "pre_tokenizer": words}), _NOTHING)
    check_parts(_parts({"normalizer": [*quotes, *forms], "pre_tokenizer": [_METASPACE]}), _NOTHING)
    check_parts(_parts({"normalizer": [_BERT]}), _NOTHING)
