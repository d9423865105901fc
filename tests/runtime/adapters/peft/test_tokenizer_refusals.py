"""Tokenizers of adapters that cannot be made of the base's are refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lora_runtime import AdapterError

from ....support.tokenizers import ENDS, TEXT, Change, read, rename, saved, sequence

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
