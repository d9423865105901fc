"""Whatever lies in an adapter's directory: it is read, or refused with AdapterError, and nothing is
left open."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from lora_runtime import AdapterError
from lora_runtime.adapters.peft.fields import FIELDS
from lora_runtime.adapters.peft.inspect import (
    DescribedBase,
    describe_base,
    inspect_adapter,
    render_text,
    to_json,
)
from lora_runtime.adapters.peft.loader import read_adapter
from lora_runtime.adapters.peft.update import CheckedAdapter

from ....support.adapters import open_files, read_tensors, save_adapter

fuzz = settings(
    max_examples=250,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
numbers = st.integers() | st.sampled_from(
    [-1, 0, 1, 2, 7, 8, 64, 258, 1 << 31, 1 << 63, 1 << 64, 10**400]
)
scalars = (
    st.none()
    | st.booleans()
    | numbers
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(
        ["q_proj", "lm_head", "embed_tokens", "all-linear", "LORA", "all", "lora_only", "F32"]
    )
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4)
    ),
    max_leaves=8,
)


class Target:
    """A small adapter whose files are overwritten before each reading."""

    def __init__(self, directory: Path, base: DescribedBase) -> None:
        self.directory, self.base = directory, base
        self.config_path, self.weights_path = (
            directory / "adapter_config.json",
            directory / "adapter_model.safetensors",
        )
        self.config, self.weights = self.config_path.read_bytes(), self.weights_path.read_bytes()

    def read(
        self, config: bytes | None = None, weights: bytes | None = None
    ) -> CheckedAdapter | None:
        """The adapter, or None where it was refused."""
        self.config_path.write_bytes(self.config if config is None else config)
        self.weights_path.write_bytes(self.weights if weights is None else weights)
        with nothing_left_open():
            self.inspect()
            try:
                return read_adapter(
                    self.directory, self.base, max_bytes=1 << 20, max_added_tokens=4
                )
            except AdapterError as error:
                str(error).encode()  # can be sent
                return None

    def inspect(self) -> None:
        try:
            report = inspect_adapter(self.directory)
        except AdapterError:
            return
        assert render_text(report).encode()
        assert json.dumps(to_json(report)).encode()


@contextmanager
def nothing_left_open() -> Iterator[None]:
    files = open_files()
    yield
    assert open_files() == files


@pytest.fixture(scope="session")
def target(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Target:
    directory = save_adapter(
        tiny_base,
        tmp_path_factory.mktemp("fuzz") / "adapter",
        r=2,
        use_dora=True,
        trainable_token_indices=[1, 5],
        modules_to_save=["norm"],
        layers_to_transform=[0],
        alpha_pattern={"q_proj": 3},
    )
    return Target(directory, describe_base(tiny_base))


def header_of(weights: bytes) -> tuple[dict[str, Any], bytes]:
    length = int.from_bytes(weights[:8], "little")
    return json.loads(weights[8 : 8 + length]), weights[8 + length :]


def packed(header: Any, data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def test_the_target_is_good(target: Target) -> None:
    assert target.read() is not None


@fuzz
@given(
    seed=st.integers(0, 1 << 32),
    count=st.integers(1, 4),
    near=st.sampled_from([8, 64, 2000, 1 << 20]),
)
def test_changed_bytes(target: Target, seed: int, count: int, near: int) -> None:
    chance, weights = random.Random(seed), bytearray(target.weights)
    for _ in range(count):
        weights[chance.randrange(min(near, len(weights)))] = chance.randrange(256)
    target.read(weights=bytes(weights))


@fuzz
@given(cut=st.integers(0, 1 << 16), more=st.binary(max_size=16))
def test_other_lengths(target: Target, cut: int, more: bytes) -> None:
    weights = target.weights[: cut % (len(target.weights) + 1)] + more
    assert target.read(weights=weights) is None or len(weights) == len(target.weights)


@fuzz
@given(length=st.integers(0, (1 << 64) - 1) | st.integers(0, 5000))
def test_other_header_lengths(target: Target, length: int) -> None:
    target.read(weights=length.to_bytes(8, "little") + target.weights[8:])


@fuzz
@given(
    pick=st.integers(0, 1000),
    where=st.sampled_from(["dtype", "shape", "data_offsets", "more", ""]),
    value=values,
)
def test_other_headers(target: Target, pick: int, where: str, value: Any) -> None:
    header, data = header_of(target.weights)
    names = sorted(header)
    if where:
        if isinstance(header[names[pick % len(names)]], dict):
            header[names[pick % len(names)]][where] = value
    else:
        header[names[pick % len(names)]] = value
    target.read(weights=packed(header, data))


@fuzz
@given(
    pick=st.integers(0, 1000),
    name=st.text(max_size=40)
    | st.from_regex(
        r"\A(base_model\.model\.)?(model|lm_head|language_model)(\.(layers|0|norm|q_proj|module)){0,4}\."
        r"(lora_[AB]|weight|bias|base_layer|modules_to_save|lora_magnitude_vector|token_adapter)(\.weight|\.default){0,2}\Z"
    ),
)
@example(pick=0, name="\ud800")
def test_other_names(target: Target, pick: int, name: str) -> None:
    header, data = header_of(target.weights)
    names = sorted(n for n in header if n != "__metadata__")
    entry = header.pop(names[pick % len(names)])
    target.read(weights=packed(header | {name: entry}, data))


@fuzz
@given(field=st.sampled_from([*sorted(FIELDS), "unknown"]), value=values)
def test_config_values(target: Target, field: str, value: Any) -> None:
    target.read(config=json.dumps(json.loads(target.config) | {field: value}).encode())


@fuzz
@given(st.lists(st.tuples(st.sampled_from(sorted(FIELDS)), values), max_size=12))
def test_configs(target: Target, pairs: list[tuple[str, Any]]) -> None:
    target.read(
        config=json.dumps(
            {"peft_type": "LORA", "target_modules": ["q_proj", "v_proj"]} | dict(pairs)
        ).encode()
    )


@fuzz
@given(
    config=st.binary(max_size=64)
    | st.text(max_size=64).map(lambda t: t.encode("utf-8", "surrogatepass"))
)
def test_config_bytes(target: Target, config: bytes) -> None:
    assert target.read(config=config) is None


@fuzz
@given(
    field=st.sampled_from(["target_modules", "exclude_modules", "rank_pattern", "modules_to_save"]),
    pattern=st.text(alphabet="aq.*+?()[]{}|\\^$0123,:<>=P-_dwi#", max_size=24),
)
def test_expressions(target: Target, field: str, pattern: str) -> None:
    value: Any = {"rank_pattern": {pattern: 2}, "modules_to_save": [pattern, "norm"]}.get(
        field, pattern
    )
    target.read(config=json.dumps(json.loads(target.config) | {field: value}).encode())


@fuzz
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["F32", "F16", "BF16", "F64"]),
            st.integers(0, 3),
            st.binary(min_size=24, max_size=24),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_finite_is_what_torch_says(tmp_path: Path, parts: list[tuple[str, int, bytes]]) -> None:
    """Runs of several dtypes, empty tensors and unaligned ones, against torch.isfinite."""
    dtypes = {
        "F32": torch.float32,
        "F16": torch.float16,
        "BF16": torch.bfloat16,
        "F64": torch.float64,
    }
    header, data, expected = {}, b"", {}
    for i, (kind, count, content) in enumerate(parts):
        content = content[: count * dtypes[kind].itemsize]
        header[str(i)] = {
            "dtype": kind,
            "shape": [count],
            "data_offsets": [len(data), len(data) + len(content)],
        }
        values = torch.frombuffer(bytearray(content or bytes(8)), dtype=dtypes[kind])[:count]
        expected[str(i)] = values.float() if kind == "F64" else values
        data += content
    path = tmp_path / "x.safetensors"
    path.write_bytes(packed(header, data))
    bad = [name for name, tensor in expected.items() if not torch.isfinite(tensor).all()]
    if bad:
        with pytest.raises(AdapterError, match="|".join(f"'{name}' holds NaN" for name in bad)):
            read_tensors(path, 1 << 20)
        return
    tensors = read_tensors(path, 1 << 20).tensors
    assert all(torch.equal(tensors[name], tensor) for name, tensor in expected.items())


def test_files_as_safetensors_writes_them(tmp_path: Path) -> None:
    tensors = {
        "a": torch.randn(3, 5).half(),
        "b": torch.randn(7),
        "c": torch.randn(2, 2, 3).bfloat16(),
    }
    path = tmp_path / "x.safetensors"
    path.write_bytes(save(tensors, metadata={"format": "pt"}))
    read = read_tensors(path, 1 << 20).tensors
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())
