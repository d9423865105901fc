"""Which kernels run, and that the torch backend takes over where the C++ one cannot."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from lora_runtime import (
    AdapterCapacityError,
    BaseModel,
    BaseModelError,
    Engine,
    EngineConfig,
    Request,
    SamplingParams,
)
from lora_runtime.backends.cpp.runner import CppRunner
from lora_runtime.kernels import select
from lora_runtime.kernels.cpu import build
from lora_runtime.kernels.triton import first_launch
from lora_runtime.scheduling.batch import StepBatch, StepOutput

from ...support.adapters import save_adapter
from ...support.backends import program_of
from ...support.device import DEVICE, PATHS

SAMPLING = SamplingParams(max_new_tokens=8, ignore_eos=True)


def _tokens(base: BaseModel | Path, adapter: Path | None = None, **config: Any) -> tuple[int, ...]:
    config = {"device": "cpu", "dtype": "float32", "kv_cache_bytes": 8 << 20, **config}
    with Engine(base, EngineConfig(**config)) as engine:
        if adapter is not None:
            engine.load_adapter(adapter, "a")
        request = Request(
            prompt="The quick brown", adapter_id="a" if adapter else "", sampling=SAMPLING
        )
        return engine.generate(request).choices[0].token_ids


def test_the_choice_is_reported(tiny_base: Path) -> None:
    told = {
        "cpp": {f"cpp/{build.host_target()}"},
        "torch": {"torch/cpu"},
        "cuda": {"triton", "cuda graphs"},
        "cuda torch": {"torch/cuda"},
    }
    for path, how in PATHS.items():
        with Engine(
            tiny_base, EngineConfig(dtype="float32", kv_cache_bytes=8 << 20, **how)
        ) as engine:
            assert set(engine.info().kernels.values()) == told[path]


@pytest.mark.slow
def test_triton_kernels_answer_as_the_references_do(
    tiny_base: Path, tiny_adapters: dict[str, Path]
) -> None:
    """A prompt in chunks; on a CPU under Triton's interpreter, which the tests switch on."""
    expected = _tokens(tiny_base, tiny_adapters["a3"], kernels="torch")
    config = {"device": DEVICE, "kernels": "triton", "max_batch_tokens": 8, "max_running": 2}
    assert _tokens(tiny_base, tiny_adapters["a3"], **config) == expected
    with Engine(
        tiny_base,
        EngineConfig(device=DEVICE, dtype="float32", kernels="triton", kv_cache_bytes=8 << 20),
    ) as engine:
        assert engine.info().kernels["paged_attention"] == "triton"


def test_an_attention_that_cannot_run_is_refused(tiny_base: Path) -> None:
    with pytest.raises(BaseModelError, match="'flashinfer' needs a CUDA device"):
        Engine(tiny_base, EngineConfig(device="cpu", dtype="float32", attention="flashinfer"))
    with pytest.raises(BaseModelError, match=r"head dims \d+|flashinfer-python"):
        Engine(
            tiny_base,
            EngineConfig(device=DEVICE, dtype="float32", kernels="triton", attention="flashinfer"),
        )


def test_triton_says_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container without gcc, or with a read-only file system; then one whose compiler has no
    headers."""

    def fail(value: torch.Tensor) -> None:
        raise (
            subprocess.CalledProcessError(1, ["gcc"])
            if compiler
            else RuntimeError("Failed to find C compiler")
        )

    cpu, compiler = torch.device("cpu"), ""
    first_launch.check_launch(cpu)
    monkeypatch.setattr(first_launch, "_one_kernel", {(1,): fail})
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    (tmp_path / "file").touch()
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "file" / "cache"))
    with pytest.raises(
        BaseModelError, match=r"gcc and libc6-dev.*TRITON_CACHE_DIR.*Failed to find C compiler"
    ):
        select(cpu, "triton")
    compiler = shutil.copy("/bin/true", str(tmp_path / "cc"))
    monkeypatch.setenv("CC", "cc")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    with pytest.raises(
        BaseModelError, match=r"libc6-dev and of Python; CalledProcessError"
    ) as told:
        select(cpu, "triton")
    assert "TRITON_CACHE_DIR" not in str(told.value)


def test_an_older_transformers_has_no_tensor_parallel(
    tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        sys.modules, "lora_runtime.backends.tensor_parallel.load", None
    )  # as its imports fail there
    with pytest.raises(BaseModelError, match=r"tensor_parallel needs transformers 5\.20 or newer"):
        BaseModel.load(tiny_base, device="cpu", tensor_parallel=2)


def test_head_dims_without_a_tile_are_refused() -> None:
    heads = select(torch.device("cpu"), "triton").check_heads
    heads(512, 512, torch.bfloat16)
    for dims in ((513, 64), (64, 576)):
        with pytest.raises(BaseModelError, match=f"up to 512, not {dims[0]} and {dims[1]}"):
            heads(*dims, torch.bfloat16)


def test_without_a_compiler(
    tiny_base: Path,
    tiny_adapters: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    expected = _tokens(tiny_base, tiny_adapters["a3"])
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("LORAMUX_KERNEL_CACHE", str(tmp_path))
    monkeypatch.setitem(
        build.TARGETS, build.host_target(), (("avx2",), ("-march=x86-64-v3", "-DOF_THIS_TEST"))
    )
    with pytest.raises(build.NoKernelsError, match="no-such-compiler"):
        build.library_path(build.host_target())

    def load() -> None:
        build.library_path(build.host_target())

    monkeypatch.setattr(
        "lora_runtime.kernels.cpu.program.load", load
    )  # the real one remembers its library
    base = BaseModel.load(tiny_base, device="cpu", dtype="float32")
    assert program_of(base) is None
    assert "no-such-compiler" in caplog.text
    assert _tokens(base, tiny_adapters["a3"]) == expected
    with pytest.raises(BaseModelError, match="int8"):
        BaseModel.load(tiny_base, device="cpu", dtype="float32", weights="int8")


def test_a_compiler_error_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(build.NoKernelsError, match="do not build"):
        build.build(build.host_target(), tmp_path / "kernels.so")
    assert list(tmp_path.iterdir()) == []


def test_kernels_of_an_image_are_for_every_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = tmp_path / "csrc"
    sources.mkdir()
    (sources / "empty.cpp").touch()
    monkeypatch.setattr(build, "SOURCES", sources)
    monkeypatch.setattr(build, "_call", lambda command: Path(command[-1]).touch())
    monkeypatch.setenv("CXX", sys.executable)
    before = os.umask(0o022)
    try:
        build.main()
    finally:
        os.umask(before)
    assert len(list((tmp_path / "lib").glob("*.so"))) == len(build.TARGETS)
    assert (tmp_path / "lib").stat().st_mode & 0o777 == 0o755


def test_a_program_that_differs_is_not_used(
    tiny_base: Path,
    tiny_adapters: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    expected = _tokens(tiny_base, tiny_adapters["a3"])
    forward = CppRunner.forward

    def other(runner: CppRunner, batch: StepBatch) -> StepOutput:
        output = forward(runner, batch)
        return StepOutput(output.logits * 1.01, output.greedy)

    monkeypatch.setattr(CppRunner, "forward", other)
    base = BaseModel.load(tiny_base, device="cpu", dtype="float32")
    assert program_of(base) is None
    assert "differ from transformers' own forward" in caplog.text
    assert _tokens(base, tiny_adapters["a3"]) == expected  # its weights are back


def test_an_architecture_without_a_program(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from transformers import AutoModelForCausalLM, OlmoConfig

    from ...support.models import VOCAB, make_tokenizer

    config = OlmoConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=128,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "base")
    make_tokenizer().save_pretrained(tmp_path / "base")
    adapter = save_adapter(tmp_path / "base", tmp_path / "adapter")
    assert _tokens(tmp_path / "base", adapter) != _tokens(tmp_path / "base")
    assert "'olmo'" in caplog.text


def test_without_adapter_slots(tiny_base: Path, tiny_adapters: dict[str, Path]) -> None:
    assert _tokens(tiny_base, max_adapters=0) == _tokens(tiny_base)
    with (
        Engine(
            tiny_base, EngineConfig(dtype="float32", max_adapters=0, kv_cache_bytes=8 << 20)
        ) as engine,
        pytest.raises(AdapterCapacityError),
    ):
        engine.load_adapter(tiny_adapters["a1"], "a1")


def test_a_base_without_slots_refuses_adapters(
    tiny_base: Path, tiny_adapters: dict[str, Path]
) -> None:
    base = BaseModel.load(tiny_base, dtype="float32", lora=False)
    with (
        Engine(base, EngineConfig(kv_cache_bytes=8 << 20)) as engine,
        pytest.raises(AdapterCapacityError, match="takes no adapters"),
    ):
        engine.load_adapter(tiny_adapters["a1"], "a1")
    with pytest.raises(ValueError, match=r"BaseModel\.load"):
        Engine(base, EngineConfig(kernels="torch"))


def test_a_block_size_that_the_kernels_cannot_read_is_refused(tiny_base: Path) -> None:
    with pytest.raises(ValueError, match="kv_block_size must be a multiple of 16"):
        Engine(
            tiny_base,
            EngineConfig(device="cpu", dtype="float32", kv_block_size=8, kv_cache_bytes=8 << 20),
        )
    assert _tokens(tiny_base, kernels="torch", kv_block_size=8) == _tokens(tiny_base)
