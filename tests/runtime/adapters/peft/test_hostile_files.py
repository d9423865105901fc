"""Files of strangers: counted before they are decoded, and refused before their data is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_runtime import AdapterError, BaseMismatchError
from lora_runtime.adapters.peft import files, keys, patterns, safetensors_header
from lora_runtime.adapters.peft.config import MAX_CONFIG_BYTES, decode_config, parse_config
from lora_runtime.adapters.peft.inspect import DescribedBase, describe_base
from lora_runtime.adapters.peft.loader import read_adapter
from lora_runtime.adapters.peft.safetensors_file import OpenTensors
from lora_runtime.adapters.peft.safetensors_header import MAX_HEADER_BYTES, parse_header

from ....support.adapters import edit_config, edit_tensors, read_tensors, save_adapter

NAME = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
PATH = Path("adapter_model.safetensors")
ENTRY = '{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'


@pytest.fixture(scope="module")
def base(tiny_base: Path) -> DescribedBase:
    return describe_base(tiny_base)


@pytest.fixture
def adapter(tiny_base: Path, tmp_path: Path) -> Path:
    return save_adapter(tiny_base, tmp_path / "adapter")


def filled(unit: str, before: str, after: str, size: int = MAX_HEADER_BYTES) -> str:
    """As many units as `size` bytes hold, with commas between them."""
    return before + ",".join([unit] * ((size - len(before + after)) // (len(unit) + 1))) + after


class Decoded:
    """The longest text that a module gives to json.loads, which holds the interpreter's lock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, module: Any) -> None:
        self.longest = 0
        loads = json.loads

        def watched(text: str, **options: Any) -> Any:
            self.longest = max(self.longest, len(text))
            return loads(text, **options)

        monkeypatch.setattr(module.json, "loads", watched)


# --- headers ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (filled("[]", '{"__metadata__":{"a":[', "]}}"), "not an object of strings"),
        (filled("[]", '{"__metadata__":[', "]}"), "not an object of strings"),
        ('{"__metadata__":{"a":"b"},"__metadata__":{}}', "appears twice"),
        (filled("0", '{"a":{"dtype":"F32","shape":[', "]}}"), "not described"),
        ('{"a":' + "[" * (MAX_HEADER_BYTES - 5), "not described"),
        ('{"a":' * (MAX_HEADER_BYTES // 5), "not described"),
        (
            '{"a":{"dtype":"F32","shape":[' + "9" * 10**6 + '],"data_offsets":[0,0]}}',
            "not described",
        ),
        ('{"a":{"dtype":"F32","shape":[1e999],"data_offsets":[0,0]}}', "the shape"),
        ('{"' + "x" * (MAX_HEADER_BYTES - 5) + '":{}}', "not valid JSON"),
        ('{"' + "\\n" * (MAX_HEADER_BYTES // 2 - 5) + '":{}}', "not valid JSON"),
        ('{"__metadata__":{"a":"' + "\\u0041" * (MAX_HEADER_BYTES // 6 - 10) + '"}}', "no tensors"),
        ('{"__metadata__":{"a":"\\x"}}', "not valid JSON"),
        ('{"__metadata__":{"a":"b', "not valid JSON"),
        (" " * MAX_HEADER_BYTES, "not a JSON object"),
        ("{}" + " " * (MAX_HEADER_BYTES - 2), "no tensors"),
        (filled(f'"a":{ENTRY}', "{", "}"), "appears twice"),
        (f'{{"a":{ENTRY}', "not valid JSON"),
        (f'{{"a":{ENTRY}}} x', "not valid JSON"),
        (f'{{"a":{ENTRY},}}', "not valid JSON"),
        (",".join(f'"{i}":{ENTRY}' for i in range(60_000)).join("{}"), "more than 32768 tensors"),
    ],
    ids=range(20),
)
def test_headers_that_would_take_long(
    monkeypatch: pytest.MonkeyPatch, header: str, reason: str
) -> None:
    decoded = Decoded(monkeypatch, safetensors_header)
    with pytest.raises(AdapterError, match=reason):
        parse_header(header.encode(), 0, PATH)
    assert decoded.longest < 4096


def test_a_header_over_the_limit(tmp_path: Path) -> None:
    path = tmp_path / PATH
    header = f'{{"a":{ENTRY}}}'.ljust(MAX_HEADER_BYTES).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    assert read_tensors(path, 1 << 30).tensors.keys() == {"a"}
    path.write_bytes((len(header) + 1).to_bytes(8, "little") + header + b" ")
    with pytest.raises(AdapterError, match="over the limit of 4194304"):
        read_tensors(path, 1 << 30)


strings = st.text(max_size=40) | st.sampled_from(['{"a":{}}', "},", "\\", '"', "}}", "\\u0041"])


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    metadata=st.none() | st.dictionaries(strings, strings, max_size=4),
    names=st.lists(st.text('ab.{}[]",:\\é😀', min_size=1, max_size=9), max_size=4, unique=True),
    last=st.booleans(),
    style=st.fixed_dictionaries(
        {"indent": st.sampled_from([None, 2]), "ensure_ascii": st.booleans()}
    ),
)
def test_headers_as_json_has_them(
    metadata: dict[str, str] | None, names: list[str], last: bool, style: dict[str, Any]
) -> None:
    """Whatever the metadata and the names hold, the entries are those that json.loads finds."""
    table: dict[str, Any] = {
        name: {"dtype": "F32", "shape": [i + 1], "data_offsets": [4 * i, 4 * i + 4]}
        for i, name in enumerate(names)
    }
    for i, info in enumerate(table.values()):
        info["shape"] = [1] * (i + 1)
    if metadata is not None:
        table = table | {"__metadata__": metadata} if last else {"__metadata__": metadata} | table
    try:
        text = json.dumps(table, **style).encode()
    except UnicodeEncodeError:  # half of a pair, which no file can hold
        return
    if not names:
        with pytest.raises(AdapterError, match="no tensors"):
            parse_header(text, 0, PATH)
        return
    entries = parse_header(text + b"   ", 4 * len(names), PATH)
    assert [(e.name, e.shape, e.begin) for e in entries] == [
        (name, (1,) * (i + 1), 4 * i) for i, name in enumerate(names)
    ]


def test_an_empty_tensor_of_a_shape_that_overflows() -> None:
    entry = json.dumps({"dtype": "F32", "shape": [1 << 40, 1 << 40, 0], "data_offsets": [0, 0]})
    with pytest.raises(AdapterError, match="has the shape"):
        parse_header(f'{{"a":{entry}}}'.encode(), 0, PATH)


# --- before the data ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: t | {NAME: torch.full((4, 63), float("nan"))}, BaseMismatchError),
        (lambda t: t | {NAME: torch.full((5, 64), float("nan"))}, AdapterError),
        (lambda t: t | {f"{NAME}.x": torch.full((5, 64), float("nan"))}, AdapterError),
        (lambda t: {k: v for k, v in t.items() if k != NAME}, AdapterError),
        (
            lambda t: t | {NAME.replace("layers.0", "layers.7"): torch.ones(4, 64)},
            BaseMismatchError,
        ),
    ],
    ids=range(5),
)
def test_names_and_shapes_are_refused_before_any_data_is_read(
    base: DescribedBase,
    adapter: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]],
    reason: type[AdapterError],
) -> None:
    edit_tensors(adapter, change)

    def fail(*_: object) -> None:
        pytest.fail("the data was read")

    monkeypatch.setattr(OpenTensors, "read", fail)
    with pytest.raises(reason):
        read_adapter(adapter, base, max_bytes=1 << 30, max_added_tokens=0)


def test_more_tensors_than_the_base_has_places_for(
    base: DescribedBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Said before each name is taken apart, which is a search in it."""
    monkeypatch.setattr(keys, "parse_key", None)
    names = [f"base_model.model.{i}.lora_A.weight" for i in range(len(base.modules) * 14 + 1)]
    with pytest.raises(BaseMismatchError, match="tensors are more than the base's"):
        keys.place(names, base.modules, "made for another")


# --- configurations -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        filled("[]", '{"peft_type":[', "]}", MAX_CONFIG_BYTES),
        filled("0", '{"peft_type":[', "]}", MAX_CONFIG_BYTES),
        filled('"a":{}', "{", "}", MAX_CONFIG_BYTES),
        filled('"a"', '{"target_modules":[', "]}", MAX_CONFIG_BYTES),
    ],
    ids=range(4),
)
def test_configs_that_would_take_long(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    decoded = Decoded(monkeypatch, files)
    with pytest.raises(AdapterError, match="more than 4096 lists or 16384 values"):
        decode_config(text.encode())
    assert not decoded.longest


@pytest.mark.parametrize("number", ["9" * 1001, "1." + "3" * 1000, "-0." + "0" * 1000 + "1e-9"])
def test_long_numbers(number: str) -> None:
    with pytest.raises(AdapterError, match="a number of 10"):
        decode_config(f'{{"r":{number}}}'.encode())


def test_invocation_tokens_are_counted(base: DescribedBase, adapter: Path) -> None:
    edit_config(adapter, alora_invocation_tokens=[1] * 256)
    assert read_adapter(adapter, base, max_bytes=1 << 30, max_added_tokens=0).invocation_tokens
    edit_config(adapter, alora_invocation_tokens=[1] * 257)
    with pytest.raises(AdapterError, match="holds 257 tokens, the limit is 256"):
        read_adapter(adapter, base, max_bytes=1 << 30, max_added_tokens=0)


def test_what_a_foreign_file_holds_is_not_told() -> None:
    with pytest.raises(AdapterError) as caught:
        parse_config({"peft_type": "hunter2"})
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("(?i)" + "[a-\uffff]" * 1600, "characters, the limit is 1024"),
        ("(?i)" + "[a-\uffff]" * 65, "more than 64 classes or groups"),
        ("(" * 65 + "a" + ")" * 65, "more than 64 classes or groups"),
    ],
)
def test_patterns_are_counted_before_they_are_compiled(
    monkeypatch: pytest.MonkeyPatch, pattern: str, reason: str
) -> None:
    monkeypatch.setattr(patterns, "re", None)
    monkeypatch.setattr(patterns, "regex", None)
    with pytest.raises(AdapterError, match=reason):
        patterns.Patterns().full("target_modules", pattern, "model.layers.0")


def test_compiling_is_within_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns, "BUDGET_S", 0.0)
    with pytest.raises(AdapterError, match="take too long"):
        patterns.Patterns().check("target_modules", "a")


def test_the_number_of_patterns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns, "MAX_PATTERNS", 2)
    several = patterns.Patterns()
    for pattern in ("a", "b", "a"):
        several.check("rank_pattern", pattern)
    with pytest.raises(AdapterError, match="more than 2 regular expressions"):
        several.check("rank_pattern", "c")
