"""A tokenizer that comes with the adapter: used where it differs, and only if it holds the base's
vocabulary."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from lora_runtime import AdapterError
from lora_runtime.adapters.peft.inspect import DescribedBase, describe_base
from lora_runtime.adapters.peft.loader import read_adapter
from lora_runtime.adapters.peft.update import CheckedAdapter

from ....support.adapters import save_adapter
from ....support.models import VOCAB, make_tokenizer


@pytest.fixture(scope="session")
def base(tiny_base: Path) -> DescribedBase:
    return describe_base(tiny_base)


@pytest.fixture
def adapter(tiny_base: Path, tmp_path: Path) -> Path:
    return save_adapter(tiny_base, tmp_path / "adapter")


def read(directory: Path, base: DescribedBase) -> CheckedAdapter:
    return read_adapter(directory, base, max_bytes=1 << 30, max_added_tokens=8)


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
    with pytest.raises(AdapterError, match="has the id 258, the embeddings have 258 rows"):
        read(adapter, base)


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
