"""A backend more is a class and its place in the list; nothing else has to know it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lora_runtime import BaseModel, BaseModelError, Engine, EngineConfig, Request, SamplingParams
from lora_runtime.backends import choose
from lora_runtime.backends.backend import Backend, UnusableError
from lora_runtime.backends.cpp.compiling import ProgramMismatchError
from lora_runtime.backends.torch.backend import TorchBackend
from lora_runtime.model.files import BaseFiles
from lora_runtime.model.frozen import FrozenModel

from ...support.versions import need

SAMPLING = SamplingParams(max_new_tokens=4, ignore_eos=True)
SETTINGS = EngineConfig(device="cpu", dtype="float32", kv_cache_bytes=8 << 20)


class Fifth(TorchBackend):
    """torch's, under a name of its own."""

    def __init__(self, *args: object) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self.names["step"] = "fifth"


class Unusable(Fifth):
    @classmethod
    def open(cls, files: BaseFiles) -> Backend:
        files.read()
        raise UnusableError("another one is taken")


def answer(engine: Engine, adapter: Path) -> str:
    engine.load_adapter(adapter, "a")
    return engine.generate(Request(prompt="hello", adapter_id="a", sampling=SAMPLING)).text


def test_the_first_that_can_is_taken(
    tiny_base: Path,
    tiny_adapters: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with Engine(tiny_base, SETTINGS) as engine:
        expected = answer(engine, tiny_adapters["a0"])
    monkeypatch.setattr(choose, "BACKENDS", (Unusable, Fifth, *choose.BACKENDS))
    with caplog.at_level(logging.WARNING), Engine(tiny_base, SETTINGS) as engine:
        assert engine.info().kernels["step"] == "fifth"
        assert answer(engine, tiny_adapters["a0"]) == expected
    assert "another one is taken" in caplog.text


def test_a_base_is_read_once_however_many_try_it(
    tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[object] = []
    read_part = BaseFiles.read_part

    def noted(files: BaseFiles) -> FrozenModel:
        reads.append(files)
        return read_part(files)

    monkeypatch.setattr(BaseFiles, "read_part", noted)
    monkeypatch.setattr(choose, "BACKENDS", (Unusable, Unusable, Fifth))
    assert type(BaseModel.load(tiny_base, device="cpu").backend) is Fifth
    assert len(reads) == 1


def test_a_model_in_memory_is_served(tiny_base: Path, tiny_adapters: dict[str, Path]) -> None:
    base = in_memory(tiny_base, "in memory", kernels="torch")
    with (
        Engine(base, EngineConfig(kv_cache_bytes=8 << 20)) as ours,
        Engine(tiny_base, SETTINGS) as theirs,
    ):
        assert answer(ours, tiny_adapters["a0"]) == answer(theirs, tiny_adapters["a0"])


def test_settings_go_before_those_of_a_config(tiny_base: Path) -> None:
    base = BaseModel.load(tiny_base, SETTINGS, kernels="torch")
    assert type(base.backend) is TorchBackend
    assert base.dtype == torch.float32


def in_memory(tiny_base: Path, name: str, **settings: Any) -> BaseModel:
    model = AutoModelForCausalLM.from_pretrained(
        tiny_base, dtype=torch.float32, attn_implementation="eager"
    )
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    return BaseModel.of(model, tokenizer, name, device="cpu", **settings)


@pytest.mark.parametrize("in_directory", [True, False])
def test_a_model_in_memory_is_not_split(tiny_base: Path, in_directory: bool) -> None:
    """Not even where its name is that of a directory with a base."""
    need("transformers", 5, 20, "tensor parallel")
    name = str(tiny_base) if in_directory else "in memory"
    with pytest.raises(BaseModelError, match="split while it is read from its files"):
        in_memory(tiny_base, name, tensor_parallel=2)


def test_a_model_in_memory_is_never_another(
    tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even where its name is that of a directory with a base."""

    def used_up(*_: object, **__: object) -> None:
        raise ProgramMismatchError("other logits")

    monkeypatch.setattr("lora_runtime.backends.cpp.backend.compile_program", used_up)
    with pytest.raises(BaseModelError, match="was used up"):
        in_memory(tiny_base, str(tiny_base))
