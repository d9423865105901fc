"""A tokenizer that comes with the adapter: used where it differs, and only if it holds the base's
vocabulary."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, processors
from transformers import AutoTokenizer, ByT5Tokenizer, PreTrainedTokenizerFast

from lora_runtime import AdapterError
from lora_runtime.adapters.peft.inspect import DescribedBase, describe_base
from lora_runtime.adapters.peft.loader import read_adapter
from lora_runtime.adapters.peft.tokenizer.parts import MAX_MORE_ADDED
from lora_runtime.adapters.peft.update import CheckedAdapter
from lora_runtime.foreign.process import Workers, WorkLimits

from ....support.adapters import save_adapter
from ....support.models import BOS, EOS, VOCAB, make_tokenizer


@pytest.fixture(scope="session")
def base(tiny_base: Path) -> DescribedBase:
    return describe_base(tiny_base)


@pytest.fixture
def adapter(tiny_base: Path, tmp_path: Path) -> Path:
    return save_adapter(tiny_base, tmp_path / "adapter")


LIMITS = WorkLimits()


def read(directory: Path, base: DescribedBase, limits: WorkLimits = LIMITS) -> CheckedAdapter:
    return read_adapter(
        directory, base, max_bytes=1 << 30, max_added_tokens=8, tokenizer_limits=limits
    )


def saved(
    directory: Path, change: Callable[[PreTrainedTokenizerFast], Any] = lambda t: None
) -> None:
    tokenizer = make_tokenizer()
    change(tokenizer)
    tokenizer.save_pretrained(directory)


def test_the_base_s_own_is_not_used(base: DescribedBase, adapter: Path) -> None:
    before = read(adapter, base)
    saved(adapter)
    after = read(adapter, base)
    assert before.tokenizer is after.tokenizer is None
    assert before.version == after.version
    assert [n for n in after.notes if "tokenizer" in n]
    assert not before.notes


def test_added_tokens(base: DescribedBase, tiny_base: Path, tmp_path: Path) -> None:
    directory = save_adapter(tiny_base, tmp_path / "adapter", added_tokens=2)
    before = read(directory, base)
    saved(directory, lambda t: t.add_tokens(["<a>", "<b>"], special_tokens=True))
    after = read(directory, base)
    assert after.vocab_size == VOCAB + 2
    assert after.tokenizer("x<b>")["input_ids"] == [*base.tokenizer("x")["input_ids"], VOCAB + 1]
    assert len({before.version, after.version}) == 2
    assert read(directory, base).tokenizer is after.tokenizer, (
        "adapters with the same files share it"
    )
    saved(directory, lambda t: t.add_tokens(["<c>", "<b>"]))
    assert len({before.version, after.version, read(directory, base).version}) == 3


def test_tokens_without_rows(base: DescribedBase, adapter: Path) -> None:
    saved(adapter, lambda t: t.add_tokens(["<a>"]))
    found = read(adapter, base)
    assert found.tokenizer("<a>")["input_ids"] == [258]
    assert any(
        "'<a>' (258), have no row in the embeddings, which have 258" in n for n in found.notes
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda t: setattr(t, "chat_template", "{{ messages[0].content }}"),
        lambda t: setattr(t, "eos_token", "<s>"),
    ],
)
def test_other_templates_and_ends(base: DescribedBase, adapter: Path, change: Callable) -> None:
    saved(adapter, change)
    own = read(adapter, base).tokenizer
    assert own is not None
    assert (own.chat_template != base.tokenizer.chat_template) or (own.eos_token == "<s>")


def test_a_template_alone(base: DescribedBase, adapter: Path) -> None:
    (adapter / "chat_template.jinja").write_text("{{ messages[0].content }}")
    own = read(adapter, base).tokenizer
    assert own.chat_template == "{{ messages[0].content }}" != base.tokenizer.chat_template
    assert own.get_vocab() == base.tokenizer.get_vocab()


def test_no_template_keeps_the_base_s(base: DescribedBase, adapter: Path) -> None:
    saved(adapter, lambda t: setattr(t, "chat_template", None))
    assert read(adapter, base).tokenizer is None


def test_other_vocabularies(base: DescribedBase, adapter: Path) -> None:
    saved(adapter)
    path = adapter / "tokenizer.json"
    content = json.loads(path.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["A"], vocabulary["B"] = vocabulary["B"], vocabulary["A"]
    path.write_text(json.dumps(content))
    with pytest.raises(AdapterError, match=r"tokenizer has '[AB]' as"):
        read(adapter, base)
    vocabulary["A"], vocabulary["B"] = (
        vocabulary["B"],
        vocabulary["A"],
    )  # back, or which of two is named is chance
    del vocabulary["A"]
    path.write_text(json.dumps(content))
    with pytest.raises(AdapterError, match="tokenizer has 'A' as None"):
        read(adapter, base)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("tokenizer.json", "{"),
        ("tokenizer.json", "{}"),
        ("tokenizer_config.json", "[]"),
        (
            "tokenizer_config.json",
            '{"tokenizer_class": "Nonsense", "auto_map": {"AutoTokenizer": ["evil.Evil", null]}}',
        ),
    ],
)
def test_damaged_files(base: DescribedBase, adapter: Path, name: str, text: str) -> None:
    saved(adapter)
    (adapter / "evil.py").write_text("raise SystemExit")
    (adapter / name).write_text(text)
    with pytest.raises(AdapterError, match="tokenizer cannot be loaded"):
        read(adapter, base)


def test_a_base_without_tokenizer(base: DescribedBase, adapter: Path) -> None:
    saved(adapter, lambda t: setattr(t, "chat_template", "x"))
    unknown = DescribedBase(base.name, base.identity, base.modules, None, base.vocab_size)
    checked = read(adapter, unknown)
    assert checked.tokenizer is None
    assert any("tokenizer" in note for note in checked.notes)


def change_json(path: Path, change: Callable[[dict], Any]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def other_template(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = "{{ bos_token }}{{ messages[0].content }}"


_STRIP = {"type": "Strip", "content": " ", "start": 1, "stop": 1}
_REPLACE = {"type": "Replace", "pattern": {"Regex": "(a|a)*b"}, "content": "x"}
_SPLIT = {
    "type": "Split",
    "pattern": {"Regex": "(([ab])+)+$"},
    "behavior": "Isolated",
    "invert": False,
}


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda t: t.update(decoder=_STRIP), "decoder"),
        (lambda t: t.update(pre_tokenizer=_SPLIT), "pre_tokenizer"),
        (lambda t: t.update(normalizer=_REPLACE), "normalizer"),
        (lambda t: t["model"].update(vocab=t["model"]["vocab"] | {"ab": 258}), "model"),
        (lambda t: t["model"].update(byte_fallback=True), "model"),
        (
            lambda t: t["model"].update(vocab=t["model"]["vocab"] | {"ab": 258}, merges=["a b"]),
            "model",
        ),
    ],
)  # fmt: skip
def test_another_way_of_a_text_is_refused(
    base: DescribedBase, adapter: Path, change: Callable[[dict], Any], part: str
) -> None:
    saved(adapter, other_template)
    change_json(adapter / "tokenizer.json", change)
    with pytest.raises(AdapterError, match=f"tokenizer has another {part} than the base's"):
        read(adapter, base)


@pytest.mark.parametrize(
    "change",
    [
        lambda t: [t.pop(name) for name in ("normalizer", "post_processor", "truncation")],
        lambda t: [t["model"].pop(n) for n in ("dropout", "unk_token", "byte_fallback")],
        lambda t: t.update(truncation={"direction": "Right", "max_length": 3, "stride": 0,
                                       "strategy": "LongestFirst"}),
        lambda t: t.update(padding={"strategy": {"Fixed": 99}, "direction": "Left", "pad_id": 0,
                                    "pad_to_multiple_of": None, "pad_type_id": 0,
                                    "pad_token": "!"}),
    ],
)  # fmt: skip
def test_the_base_s_way_in_other_words(
    base: DescribedBase, adapter: Path, change: Callable[[dict], Any]
) -> None:
    saved(adapter, other_template)
    change_json(adapter / "tokenizer.json", change)
    own = read(adapter, base).tokenizer
    text = "a text <s> that is long"
    assert own(text)["input_ids"] == base.tokenizer(text)["input_ids"]


def test_tokens_before_and_behind_a_text(base: DescribedBase, adapter: Path) -> None:
    def begin_and_end(tokenizer: PreTrainedTokenizerFast) -> None:
        other_template(tokenizer)
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", BOS), ("</s>", EOS)]
        )

    saved(adapter, begin_and_end)
    own = read(adapter, base).tokenizer
    inner = base.tokenizer("x")["input_ids"]
    assert own("x")["input_ids"] == [BOS, *inner, EOS]
    assert own("x", add_special_tokens=False)["input_ids"] == inner
    assert base.tokenizer("x")["input_ids"] == inner

    def panic(content: dict) -> None:  # there is no second text
        content["post_processor"]["single"][1]["Sequence"]["id"] = "B"
        content["post_processor"]["single"] *= 2

    change_json(adapter / "tokenizer.json", panic)
    with pytest.raises(AdapterError, match="tokenizer"):
        read(adapter, base)


def test_it_does_what_transformers_does(
    base: DescribedBase, tiny_base: Path, tmp_path: Path
) -> None:
    directory = save_adapter(tiny_base, tmp_path / "adapter", added_tokens=4)

    def change(tokenizer: PreTrainedTokenizerFast) -> None:
        other_template(tokenizer)
        tokenizer.add_tokens([AddedToken("<a>", lstrip=True), AddedToken("b c", normalized=False)])
        tokenizer.add_special_tokens(
            {"eos_token": "<end>", "extra_special_tokens": [AddedToken("<x>", rstrip=True)]}
        )

    saved(directory, change)
    own, theirs = read(directory, base).tokenizer, AutoTokenizer.from_pretrained(directory)
    assert own.eos_token_id == theirs.eos_token_id >= VOCAB
    assert own.special_tokens_map == theirs.special_tokens_map
    for text in ["  <a> b c<x>  d<end>", "<s>plain</s>", "b  c <x>", "Grüße 世界"]:
        for special in (True, False):
            ids = theirs(text, add_special_tokens=special)["input_ids"]
            assert own(text, add_special_tokens=special)["input_ids"] == ids
            for skip in (True, False):
                assert own.decode(ids, skip_special_tokens=skip) == theirs.decode(
                    ids, skip_special_tokens=skip
                )
    assert base.tokenizer.get_vocab() == make_tokenizer().get_vocab(), "the base's is as it was"


def test_named_templates(base: DescribedBase, adapter: Path) -> None:
    saved(adapter, lambda t: setattr(t, "chat_template", None))
    templates = [{"name": n, "template": f"{n}: {{{{ messages }}}}"} for n in ("default", "tools")]
    change_json(
        adapter / "tokenizer_config.json", lambda content: content.update(chat_template=templates)
    )
    (adapter / "chat_template.jinja").unlink(missing_ok=True)
    own = read(adapter, base).tokenizer
    assert own.get_chat_template() == "default: {{ messages }}"


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 1_000_000,
        b'{"version": ' + b"9" * 1_000_000 + b"}",
        b'{"version": "1.0", "version": "1.0"}',
        b'{"version": "\xff"}',
        b'{"model": {"vocab": {"\\ud800": 0}, "merges": []}, "eos_token": "\\ud800"}',
        b'{"a": [' + b"[]," * 20_000_000 + b"[]]}",
    ],
)
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_bombs(base: DescribedBase, adapter: Path, name: str, content: bytes) -> None:
    saved(adapter)
    (adapter / name).write_bytes(content)
    limits = WorkLimits(seconds=60, memory_bytes=128 << 20)
    with pytest.raises(AdapterError, match="tokenizer"):
        read(adapter, base, limits)


def test_the_time_of_reading_is_limited(base: DescribedBase, adapter: Path) -> None:
    saved(adapter, other_template)
    with pytest.raises(AdapterError, match=r"reading the adapter's tokenizer took longer than"):
        read(adapter, base, WorkLimits(seconds=1e-3))
    assert read(adapter, base).tokenizer is not None


def test_names_of_tokens_are_short(base: DescribedBase, tiny_base: Path, tmp_path: Path) -> None:
    directory = save_adapter(tiny_base, tmp_path / "adapter", added_tokens=1)
    saved(directory, lambda t: t.add_special_tokens({"eos_token": "x" * 300}))
    with pytest.raises(AdapterError, match=r"tokenizer has a token 'x{79}… of over 256 characters"):
        read(directory, base)


def test_added_tokens_are_counted(base: DescribedBase, adapter: Path) -> None:
    """Each is looked for in every text, also one that the base has in its vocabulary."""
    saved(adapter, other_template)
    tokens = [f"<{i}>" for i in range(MAX_MORE_ADDED + 1)]
    saved(adapter, lambda t: t.add_tokens(tokens))
    with pytest.raises(AdapterError, match="1027 added tokens, the base's 2: at most 1024 more"):
        read(adapter, base)


@pytest.mark.parametrize("lengths", [[300], [250] * 200])
def test_added_tokens_are_short(base: DescribedBase, adapter: Path, lengths: list[int]) -> None:
    """Searching for them is prepared where the engine runs, and each may be written at every step."""
    saved(adapter, lambda t: t.add_tokens([f"{i:0{size}}" for i, size in enumerate(lengths)]))
    with pytest.raises(AdapterError, match=r"of over 256 characters|tokens of 50000 characters"):
        read(adapter, base)


def test_a_vocabulary_has_as_many_entries_as_it_wants(base: DescribedBase, adapter: Path) -> None:
    """What is counted before it is decoded is counted where it is decoded beside the engine."""
    saved(adapter, lambda t: setattr(t, "chat_template", "{{ messages[0].content }}"))
    path = adapter / "tokenizer_config.json"
    content = json.loads(path.read_text()) | {"more": [[i] for i in range(20_000)]}
    path.write_text(json.dumps(content))
    assert read(adapter, base).tokenizer is not None


def test_the_base_s_own_files_are_not_read(
    base: DescribedBase, tiny_base: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Workers, "worker", lambda self: pytest.fail("a worker is not needed"))
    for path in tiny_base.glob("*token*"):
        (adapter / path.name).write_bytes(path.read_bytes())
    assert read(adapter, base).tokenizer is None


def test_a_vocabulary_as_large_as_real_ones(base: DescribedBase, adapter: Path) -> None:
    raw = json.loads(make_tokenizer().backend_tokenizer.to_str())
    letters = [token for token, index in raw["model"]["vocab"].items() if index < BOS]
    pairs = [(a, b) for a in letters for b in letters][:20_000]
    raw["model"]["vocab"] |= {a + b: VOCAB + i for i, (a, b) in enumerate(pairs)}
    raw["model"]["merges"] = pairs
    large = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(raw)))
    rows = DescribedBase(base.name, base.identity, base.modules, large, len(large))
    own = copy.deepcopy(large)
    own.chat_template = "{{ messages[0].content }}"
    own.save_pretrained(adapter)
    found = read(adapter, rows).tokenizer
    assert found.chat_template == own.chat_template
    assert found("hello there")["input_ids"] == large("hello there")["input_ids"]


def test_a_base_whose_tokenizer_runs_in_python(
    base: DescribedBase, adapter: Path, tmp_path: Path
) -> None:
    slow = ByT5Tokenizer()
    slow.save_pretrained(tmp_path / "base")
    slow = ByT5Tokenizer.from_pretrained(tmp_path / "base")
    python = DescribedBase(base.name, base.identity, base.modules, slow, 1000)
    (adapter / "chat_template.jinja").write_text("{{ messages }}")
    assert read(adapter, python).tokenizer.chat_template == "{{ messages }}"
    saved(adapter)
    with pytest.raises(AdapterError, match=r"tokenizer\.json is not the base's"):
        read(adapter, python)


def test_a_tokenizer_that_runs_in_python(base: DescribedBase, adapter: Path) -> None:
    ByT5Tokenizer().save_pretrained(adapter)
    (adapter / "vocab.json").write_text("{}")
    with pytest.raises(AdapterError, match="ByT5Tokenizer, which runs in Python"):
        read(adapter, base)
