"""Tokenizers of adapters do what transformers' AutoTokenizer of the directory does, or are refused."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from lora_runtime import AdapterError
from lora_runtime.adapters.peft.tokenizer.reading import OwnTokenizer, read_tokenizer
from lora_runtime.foreign.process import WORKERS

SPECIAL = ["<s>", "</s>", "<unk>", "<reserved_0>", "<reserved_1>", "<tool>"]
TEXTS = [
    "Hello <tool> World, it's 12",
    "  Ünï ﬁ ＡＢ e\u0301  <s>x</s>\n",
    " <call><CALL> <pad>",
    "a<reserved_0> <my_call>b <reserved_1> ",
    "",
]


def _byte_level() -> PreTrainedTokenizerFast:
    names = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()), "He", "ll"]
    vocabulary = {token: index for index, token in enumerate(names)}
    raw = Tokenizer(models.BPE(vocabulary, [("H", "e"), ("l", "l")]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    return _made(raw)


def _sentence_piece() -> PreTrainedTokenizerFast:
    bytes_ = [f"<0x{index:02X}>" for index in range(256)]
    names = [*SPECIAL, *bytes_, *"▁abcdefghlortuWHx1234,.", "He", "ll"]
    vocabulary = {token: index for index, token in enumerate(names)}
    merges = [("H", "e"), ("l", "l")]
    raw = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True))
    raw.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    raw.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
         decoders.Strip(" ", 1, 0)]
    )  # fmt: skip
    return _made(raw)


def _unigram() -> PreTrainedTokenizerFast:
    scores = [(token, -float(i)) for i, token in enumerate([*SPECIAL, *"▁abcdefHWorld", "▁He"])]
    raw = Tokenizer(models.Unigram(scores, unk_id=2))
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return _made(raw)


def _made(raw: Tokenizer) -> PreTrainedTokenizerFast:
    raw.add_special_tokens(SPECIAL)
    raw.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>")


BASES = {"byte level": _byte_level, "sentence piece": _sentence_piece, "unigram": _unigram}


@pytest.fixture(scope="module", autouse=True)
def _workers() -> Iterator[None]:
    """Their program, for all tests of this module."""
    use = WORKERS.use()
    yield
    use.close()


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    found = {}
    for name, make in BASES.items():
        directory = tmp_path_factory.mktemp("base")
        make().save_pretrained(directory)
        found[name] = AutoTokenizer.from_pretrained(directory)
    return found


def change_json(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


Change = Callable[[dict[str, Any]], Any]


def saved(
    base: Any, directory: Path, change: Change | None = None, config: Change | None = None
) -> Path:
    copy.deepcopy(base).save_pretrained(directory)
    if change:
        change_json(directory / "tokenizer.json", change)
    if config:
        change_json(directory / "tokenizer_config.json", config)
    return directory


def read(directory: Path, base: Any) -> OwnTokenizer:
    return read_tokenizer(directory, base, len(base))


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


def added(**fields: Any) -> Change:
    """Fields of the last added token."""
    return lambda t: t["added_tokens"][-1].update(fields)


def more(content: str, **fields: Any) -> Change:
    def change(whole: dict[str, Any]) -> None:
        last = whole["added_tokens"][-1]
        model = whole["model"]["vocab"]
        index = len(model) + fields.pop("beyond", 0)
        whole["added_tokens"].append({**last, "content": content, "id": index, **fields})

    return change


def rename(old: str, new: str) -> Change:
    """As trainers rename a reserved token: wherever it stands."""

    def change(whole: dict[str, Any]) -> None:
        text = json.dumps(whole).replace(json.dumps(old), json.dumps(new))
        whole.update(json.loads(text))

    return change


def without(content: str) -> Change:
    def change(whole: dict[str, Any]) -> None:
        whole["added_tokens"] = [t for t in whole["added_tokens"] if t["content"] != content]
        if isinstance(whole["model"]["vocab"], dict):
            whole["model"]["vocab"].pop(content, None)

    return change


def around(*steps: dict[str, Any]) -> Change:
    return lambda t: t.update(post_processor={"type": "Sequence", "processors": list(steps)})


def _sequence(kind: str, *steps: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", kind: list(steps)}


_BYTE_LEVEL = {
    "type": "ByteLevel",
    "add_prefix_space": True,
    "trim_offsets": True,
    "use_regex": True,
}
_DIGITS = {"type": "Digits", "individual_digits": True}
_BERT = {"type": "BertProcessing", "sep": ["</s>", 1], "cls": ["<s>", 0]}
_TEXT = {"Sequence": {"id": "A", "type_id": 0}}
_PAIR = [_TEXT, {"Sequence": {"id": "B", "type_id": 0}}]
_ENDS = {
    "type": "TemplateProcessing",
    "single": [_TEXT, {"SpecialToken": {"id": "q", "type_id": 0}}],
    "pair": _PAIR,
    "special_tokens": {"q": {"id": "q", "ids": [1, 5], "tokens": ["</s>", "<tool>"]}},
}
_LOWER = {"type": "Lowercase"}
ANY = {
    "lowercase": lambda t: t.update(normalizer=_LOWER),
    "accents": lambda t: t.update(
        normalizer=_sequence("normalizers", {"type": "NFD"}, {"type": "StripAccents"})
    ),
    "no normalizer": lambda t: t.update(normalizer=None),
    "no bos": lambda t: t.update(post_processor=None),
    "bos and eos": lambda t: t.update(post_processor=_BERT),
    "two after": around(_BYTE_LEVEL, _ENDS),
    "not special": added(special=False),
    "lstrip": added(lstrip=True),
    "rstrip": added(rstrip=True),
    "single word": added(single_word=True),
    "normalized": lambda t: (added(normalized=True)(t), t.update(normalizer=_LOWER)),
    "no decoder": lambda t: t.update(decoder=None),
    "pad token": more("<pad>"),
    "gap in the ids": more("<call>", beyond=3),
    "a text that is new": more("<call>", special=False),
}  # fmt: skip
BYTE_LEVEL = {
    "renamed": rename("<reserved_0>", "<my_call>"),
    "two swap their names": lambda t: [
        rename(old, new)(t)
        for old, new in (("<tool>", "<x>"), ("<reserved_1>", "<tool>"), ("<x>", "<reserved_1>"))
    ],
    "removed": without("<reserved_1>"),
    "renamed, with bos by another": lambda t: (
        rename("<reserved_0>", "<my_call>")(t), t.update(post_processor=_ENDS)
    ),
    "removed, and still added": lambda t: (without("<tool>")(t), t.update(post_processor=_ENDS)),
    "prefix space": lambda t: t.update(pre_tokenizer=_BYTE_LEVEL),
    "digits": lambda t: t.update(pre_tokenizer=_sequence("pretokenizers", _DIGITS, _BYTE_LEVEL)),
}  # fmt: skip
CHANGES = [(base, name, change) for base in BASES for name, change in ANY.items()]
CHANGES += [("byte level", name, change) for name, change in BYTE_LEVEL.items()]


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
        lambda c: c.update(tokenizer_class="LlamaTokenizerFast", legacy=True),
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
    level = _BYTE_LEVEL | {"add_prefix_space": False, "trim_offsets": False}
    begin = json.loads(base.backend_tokenizer.to_str())["post_processor"]
    other = {
        "pre_tokenizer": _sequence("pretokenizers", level),
        "decoder": _BYTE_LEVEL | {"use_regex": False},
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


_STEPS = [{"type": "NFC"}] * 33
REFUSED = {
    "normalizer than the base's: pattern of 'Replace'": lambda t: t.update(
        normalizer={"type": "Replace", "pattern": {"Regex": "a*"}, "content": ""}
    ),
    "normalizer than the base's: content of 'Replace'": lambda t: t.update(
        normalizer={"type": "Replace", "pattern": {"String": "a"}, "content": "b" * 17}
    ),
    "normalizer than the base's: it makes texts over 16 times": lambda t: t.update(
        normalizer=_sequence("normalizers", *[
            {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 5}
        ] * 2)
    ),
    "normalizer than the base's: it has over 32 steps": lambda t: t.update(
        normalizer=_sequence("normalizers", *_STEPS)
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
        post_processor=_ENDS | {"single": [_TEXT, _TEXT]}
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


@pytest.mark.parametrize(("name", "fails"), [("<reserved_0>", False), ("reserved", True)])
def test_renamed_tokens_of_a_model_that_finds_whole_words(
    bases: dict[str, Any], tmp_path: Path, name: str, fails: bool
) -> None:
    """A name that is always cut into several words is never found as a whole."""
    whole = json.loads(bases["byte level"].backend_tokenizer.to_str())
    whole["model"]["ignore_merges"] = True
    rename("<reserved_0>", name)(whole)
    _made(Tokenizer.from_str(json.dumps(whole))).save_pretrained(tmp_path / "base")
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
    level = _BYTE_LEVEL | {"add_prefix_space": False}
    whole = json.loads(raw.to_str()) | {"pre_tokenizer": _sequence("pretokenizers", split, level)}
    _made(Tokenizer.from_str(json.dumps(whole))).save_pretrained(tmp_path / "base")
    base = AutoTokenizer.from_pretrained(tmp_path / "base")
    other = _sequence("pretokenizers", _DIGITS, split, level)
    saved(base, tmp_path / "own", lambda t: t.update(pre_tokenizer=other))
    found = read(tmp_path / "own", base)
    assert found.tokenizer is not None
    assert_same(found, base, tmp_path / "own")
