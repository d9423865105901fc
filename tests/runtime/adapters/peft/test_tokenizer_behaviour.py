"""Tokenizers of adapters do what transformers' AutoTokenizer of the directory does, or are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from lora_runtime import AdapterError
from lora_runtime.adapters.peft.tokenizer.reading import OwnTokenizer

from ....support.tokenizers import (
    BASES,
    BERT,
    BYTE_LEVEL,
    DIGITS,
    ENDS,
    LOWER,
    Change,
    added,
    around,
    made,
    more,
    read,
    rename,
    saved,
    sequence,
    without,
)
from ....support.versions import version_of

TEXTS = [
    "Hello <tool> World, it's 12",
    "  Ünï ﬁ ＡＢ e\u0301  <s>x</s>\n",
    " <call><CALL> <pad>",
    "a<reserved_0> <my_call>b <reserved_1> ",
    "",
]


def assert_same(found: OwnTokenizer, base: Any, directory: Path) -> None:
    """The same ids, and the same text of any ids, as by transformers."""
    own, theirs = found.tokenizer or base, AutoTokenizer.from_pretrained(directory)
    ids = [[index] for index in range(len(base) + 8)]
    for text in TEXTS:
        for special in (True, False):
            wanted = theirs(text, add_special_tokens=special)["input_ids"]
            assert own(text, add_special_tokens=special)["input_ids"] == wanted
            ids.append(wanted)
    for one in ids:
        for skip in (True, False):
            wanted = theirs.decode(one, skip_special_tokens=skip)
            assert own.decode(one, skip_special_tokens=skip) == wanted
    assert own.eos_token_id == theirs.eos_token_id


ANY = {
    "lowercase": lambda t: t.update(normalizer=LOWER),
    "accents": lambda t: t.update(
        normalizer=sequence("normalizers", {"type": "NFD"}, {"type": "StripAccents"})
    ),
    "no normalizer": lambda t: t.update(normalizer=None),
    "no bos": lambda t: t.update(post_processor=None),
    "bos and eos": lambda t: t.update(post_processor=BERT),
    "two after": around(BYTE_LEVEL, ENDS),
    "not special": added(special=False),
    "lstrip": added(lstrip=True),
    "rstrip": added(rstrip=True),
    "single word": added(single_word=True),
    "normalized": lambda t: (added(normalized=True)(t), t.update(normalizer=LOWER)),
    "no decoder": lambda t: t.update(decoder=None),
    "pad token": more("<pad>"),
    "gap in the ids": more("<call>", beyond=3),
    "a text that is new": more("<call>", special=False),
}  # fmt: skip
ONLY_BYTE_LEVEL = {
    "renamed": rename("<reserved_0>", "<my_call>"),
    "two swap their names": lambda t: [
        rename(old, new)(t)
        for old, new in (("<tool>", "<x>"), ("<reserved_1>", "<tool>"), ("<x>", "<reserved_1>"))
    ],
    "removed": without("<reserved_1>"),
    "renamed, with bos by another": lambda t: (
        rename("<reserved_0>", "<my_call>")(t), t.update(post_processor=ENDS)
    ),
    "removed, and still added": lambda t: (without("<tool>")(t), t.update(post_processor=ENDS)),
    "prefix space": lambda t: t.update(pre_tokenizer=BYTE_LEVEL),
    "digits": lambda t: t.update(pre_tokenizer=sequence("pretokenizers", DIGITS, BYTE_LEVEL)),
}  # fmt: skip
CHANGES = [(base, name, change) for base in BASES for name, change in ANY.items()]
CHANGES += [("byte level", name, change) for name, change in ONLY_BYTE_LEVEL.items()]


@pytest.mark.parametrize(
    ("base", "change"), [pytest.param(b, c, id=f"{b}, {n}") for b, n, c in CHANGES]
)
def test_it_does_what_transformers_does(
    bases: dict[str, Any], tmp_path: Path, base: str, change: Change
) -> None:
    saved(bases[base], tmp_path, change)
    assert_same(read(tmp_path, bases[base]), bases[base], tmp_path)


def test_a_renamed_token_keeps_its_row(bases: dict[str, Any], tmp_path: Path) -> None:
    base = bases["byte level"]
    saved(base, tmp_path, rename("<reserved_0>", "<my_call>"))
    own = read(tmp_path, base).tokenizer
    index = base.convert_tokens_to_ids("<reserved_0>")
    assert own.convert_tokens_to_ids("<my_call>") == index == own.get_vocab()["<my_call>"]
    assert own.convert_ids_to_tokens([index]) == ["<my_call>"]
    assert own.added_tokens_decoder[index].content == "<my_call>"
    assert own("<reserved_0>", add_special_tokens=False)["input_ids"] != [index]
    assert base("<reserved_0>", add_special_tokens=False)["input_ids"] == [index]


@pytest.mark.parametrize(
    "config",
    [
        lambda c: c.update(tokenizer_class="TokenizersBackend", clean_up_tokenization_spaces=True),
        lambda c: c.update(tokenizer_class="PreTrainedTokenizerFast", backend=None),
        pytest.param(
            lambda c: c.update(tokenizer_class="LlamaTokenizerFast", legacy=True),
            # Before, transformers makes a tokenizer with another model of it, which is refused.
            marks=pytest.mark.skipif(version_of("transformers") < (5, 22), reason="needs transformers 5.22"),
        ),
        lambda c: c.update(model_max_length=8, padding_side="left", truncation_side="left"),
        lambda c: c.update(add_bos_token=True, add_eos_token=True),
        lambda c: c.update(pad_token="</s>", mask_token="<tool>"),
        lambda c: c.update(
            added_tokens_decoder={
                "5": {"content": "<tool>", "special": False, "normalized": True, "lstrip": False,
                      "rstrip": False, "single_word": False}
            }
        ),
    ],
)  # fmt: skip
def test_what_changes_nothing_is_left_aside(
    bases: dict[str, Any], tmp_path: Path, config: Change
) -> None:
    """Such an adapter can be composed with others, as without its files."""
    base = bases["byte level"]
    saved(base, tmp_path, config=config)
    found = read(tmp_path, base)
    assert found.tokenizer is None
    assert found.notes == ("the tokenizer files are not used: they do what the base's do",)
    assert_same(found, base, tmp_path)


def test_the_base_s_steps_in_other_words(bases: dict[str, Any], tmp_path: Path) -> None:
    base = bases["byte level"]
    level = BYTE_LEVEL | {"add_prefix_space": False, "trim_offsets": False}
    begin = json.loads(base.backend_tokenizer.to_str())["post_processor"]
    other = {
        "pre_tokenizer": sequence("pretokenizers", level),
        "decoder": BYTE_LEVEL | {"use_regex": False},
        "post_processor": {"type": "Sequence", "processors": [level, begin]},
    }
    saved(base, tmp_path, lambda t: t.update(other))
    assert read(tmp_path, base).tokenizer is None


def test_settings_for_batches_are_noted(bases: dict[str, Any], tmp_path: Path) -> None:
    base = bases["byte level"]
    cut = {"direction": "Right", "max_length": 3, "stride": 0, "strategy": "LongestFirst"}
    saved(base, tmp_path, lambda t: t.update(truncation=cut))
    found = read(tmp_path, base)
    assert "truncation of the tokenizer's files have no effect" in found.notes
    assert_same(found, base, tmp_path)


@pytest.mark.parametrize("split", [False, True])
def test_special_tokens_may_be_split(bases: dict[str, Any], tmp_path: Path, split: bool) -> None:
    base = bases["byte level"]
    saved(base, tmp_path, config=lambda c: c.update(split_special_tokens=split))
    found = read(tmp_path, base)
    assert (found.tokenizer is not None) == split
    assert_same(found, base, tmp_path)


def test_a_config_without_vocabulary_is_read_beside_the_base_s(
    bases: dict[str, Any], tmp_path: Path
) -> None:
    base = bases["byte level"]
    saved(base, tmp_path, config=lambda c: c.update(eos_token="<tool>", tokenizer_class="Unknown"))
    (tmp_path / "tokenizer.json").unlink()
    own = read(tmp_path, base).tokenizer
    assert own.eos_token_id == 5
    assert own("Hello")["input_ids"] == base("Hello")["input_ids"]


def test_the_base_s_vocabulary_in_an_older_file(bases: dict[str, Any], tmp_path: Path) -> None:
    """As slow tokenizers were saved: only whether the file is the base's has to be known."""
    saved(bases["sentence piece"], tmp_path / "base")
    (tmp_path / "base/tokenizer.model").write_bytes(b"pieces")
    base = AutoTokenizer.from_pretrained(tmp_path / "base")
    own = saved(base, tmp_path / "own", config=lambda c: c.update(eos_token="<tool>"))
    (own / "tokenizer.json").unlink()
    (own / "tokenizer.model").write_bytes(b"pieces")
    found = read(own, base).tokenizer
    assert found.eos_token_id == 5
    assert found("Hello a")["input_ids"] == base("Hello a")["input_ids"]
    (own / "tokenizer.model").write_bytes(b"other pieces")
    with pytest.raises(AdapterError, match="tokenizer cannot be loaded"):
        read(own, base)


@pytest.mark.parametrize(("name", "fails"), [("<reserved_0>", False), ("reserved", True)])
def test_renamed_tokens_of_a_model_that_finds_whole_words(
    bases: dict[str, Any], tmp_path: Path, name: str, fails: bool
) -> None:
    """A name that is always cut into several words is never found as a whole."""
    whole = json.loads(bases["byte level"].backend_tokenizer.to_str())
    whole["model"]["ignore_merges"] = True
    rename("<reserved_0>", name)(whole)
    made(Tokenizer.from_str(json.dumps(whole))).save_pretrained(tmp_path / "base")
    base = AutoTokenizer.from_pretrained(tmp_path / "base")
    own = saved(base, tmp_path / "own", rename(name, "<my_call>"))
    if fails:
        with pytest.raises(AdapterError, match="'reserved' as None, the base's as 3"):
            read(own, base)
    else:
        assert_same(read(own, base), base, own)


def test_the_base_s_own_expressions_are_kept(bases: dict[str, Any], tmp_path: Path) -> None:
    raw = Tokenizer.from_str(bases["byte level"].backend_tokenizer.to_str())
    split = {"type": "Split", "pattern": {"Regex": "[aeiou]"}, "behavior": "Isolated",
             "invert": False}  # fmt: skip
    level = BYTE_LEVEL | {"add_prefix_space": False}
    whole = json.loads(raw.to_str()) | {"pre_tokenizer": sequence("pretokenizers", split, level)}
    made(Tokenizer.from_str(json.dumps(whole))).save_pretrained(tmp_path / "base")
    base = AutoTokenizer.from_pretrained(tmp_path / "base")
    other = sequence("pretokenizers", DIGITS, split, level)
    saved(base, tmp_path / "own", lambda t: t.update(pre_tokenizer=other))
    found = read(tmp_path / "own", base)
    assert found.tokenizer is not None
    assert_same(found, base, tmp_path / "own")
