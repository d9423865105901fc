"""Quantised bases: adapters unmerged over them as PEFT has it, one mixed batch, and what is
refused.

Methods whose package is not installed are skipped by name; CI installs torchao and
compressed-tensors. All runs on the CPU: transformers, PEFT and the methods' packages place and
compute otherwise where they see a GPU.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lora_runtime import (
    AdapterError,
    BaseModel,
    BaseModelError,
    Engine,
    EngineConfig,
    Request,
    SamplingParams,
    WeightedAdapter,
)
from lora_runtime.adapters.peft.inspect import describe_base
from lora_runtime.adapters.peft.loader import read_adapter
from lora_runtime.adapters.peft.update import ModuleUpdate
from lora_runtime.backends.triton.backend import TritonBackend
from lora_runtime.kernels.updates import UpdateSegment
from lora_runtime.model import quantised

from ...support.adapters import save_adapter
from ...support.backends import program_of
from ...support.device_path import load_base
from ...support.models import make_tokenizer, save_base
from ...support.quantised import quantise
from ...support.reference import LogitsRecorder, PeftReference, relative_error

TOKENS = 6
PROMPT = "a prompt of more than one block, FF"
SHAPE: dict[str, Any] = {"hidden_size": 96, "intermediate_size": 160, "num_key_value_heads": 4}
MIX = (("lora", 0.7), ("rslora", -0.4))
FORMATS: dict[str, dict[str, Any]] = {
    "lora": {"r": 5, "target_modules": ["q_proj", "up_proj"]},
    "rslora": {"r": 3, "use_rslora": True, "target_modules": ["q_proj", "down_proj", "o_proj"]},
    "dora": {"use_dora": True, "target_modules": ["v_proj", "down_proj"]},
    "bias": {"bias": "all", "target_modules": ["k_proj"]},
    "saved": {"target_modules": ["up_proj"], "modules_to_save": ["lm_head", "norm"]},
    "ends": {"target_modules": ["embed_tokens", "lm_head", "gate_proj"]},
}


@dataclass(frozen=True)
class Method:
    packages: tuple[str, ...]
    rounds_activations: bool = False
    """Then the last bit of an activation can move it by a whole step: logits are near PEFT's,
    projections equal."""
    tolerance: float = 1e-5
    """Of projections; float16 products of other shapes round otherwise."""
    peft_dora: bool = True
    """Whether PEFT has DoRA for it."""


METHODS = {
    "torchao int8": Method(("torchao",), peft_dora=False),
    "torchao int8 activations": Method(("torchao",), rounds_activations=True, peft_dora=False),
    "compressed-tensors int4": Method(("compressed_tensors",)),
    "compressed-tensors int8 activations": Method(("compressed_tensors",), rounds_activations=True),
    "compressed-tensors fp8 activations": Method(("compressed_tensors",), rounds_activations=True),
    "compressed-tensors fp8 static": Method(("compressed_tensors",), rounds_activations=True),
    "bitsandbytes nf4": Method(("bitsandbytes",)),
    "bitsandbytes int8": Method(("bitsandbytes",), rounds_activations=True),
    "gptq": Method(("gptqmodel", "optimum"), True, 2e-3, peft_dora=False),
    "awq": Method(("gptqmodel",), True, 2e-3, peft_dora=False),
}
WEIGHT_ONLY = [name for name, method in METHODS.items() if not method.rounds_activations]


def needing(*methods: str) -> list[Any]:
    """The methods as parameters, each skipped where its packages are not installed; one of those of
    fp8 is quick."""
    missing = {m: [p for p in METHODS[m].packages if find_spec(p) is None] for m in methods}
    return [
        pytest.param(
            m,
            marks=[
                pytest.mark.skipif(bool(missing[m]), reason=f"{m} needs {missing[m]}"),
                *([pytest.mark.slow] if m == "compressed-tensors fp8 activations" else []),
            ],
        )
        for m in methods
    ]


@pytest.fixture(scope="module", autouse=True)
def _without_a_gpu() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        yield


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen 2, for its biases, in sizes that the quantised kernels take."""
    return save_base(tmp_path_factory.mktemp("plain") / "base", "qwen2", **SHAPE)


@pytest.fixture(scope="module")
def adapters(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Made on the base before it was quantised."""
    root = tmp_path_factory.mktemp("adapters")
    return {
        name: save_adapter(plain, root / name, seed=i, **lora)
        for i, (name, lora) in enumerate(FORMATS.items())
    }


@pytest.fixture(scope="module")
def make(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Quantises the plain base, once by each method."""
    root, made = tmp_path_factory.mktemp("quantised"), {}

    def quantised_base(method: str) -> Path:
        if method not in made:
            made[method] = quantise(plain, root / method.replace(" ", "_"), method)
        return made[method]

    return quantised_base


def for_peft(method: str, adapters: dict[str, Path]) -> dict[str, Path]:
    """Those that PEFT can run on a base of this method."""
    return {
        name: path for name, path in adapters.items() if name != "dora" or METHODS[method].peft_dora
    }


def tokens_of(text: str) -> tuple[int, ...]:
    return tuple(make_tokenizer()(text)["input_ids"])


@pytest.mark.parametrize("method", needing(*METHODS))
def test_a_mixed_batch_equals_peft_alone(
    method: str, make: Callable[[str], Path], adapters: dict[str, Path]
) -> None:
    """Through the engine; of methods that round activations only the first token, and near enough
    to see an adapter."""
    base, exact = make(method), method in WEIGHT_ONLY
    count, tolerance = (TOKENS, 1e-4) if exact else (1, 0.1)
    prompt = tokens_of(PROMPT)
    expected = {}
    for name, path in for_peft(method, adapters).items():
        reference = PeftReference(base, {name: path})
        expected[name] = reference.greedy(name, prompt, count)
    expected[""] = reference.greedy("", prompt, count)
    both = PeftReference(base, {name: adapters[name] for name, _ in MIX})
    both.add_composition("mix", MIX)
    expected["mix"] = both.greedy("mix", prompt, count)

    mix = tuple(WeightedAdapter(name, weight) for name, weight in MIX)
    config = EngineConfig(
        dtype="float32", kv_cache_bytes=16 << 20, max_running=20, max_batch_tokens=40
    )
    with Engine(base, config) as engine:
        for name, path in for_peft(method, adapters).items():
            engine.load_adapter(path, name)
        recorder = LogitsRecorder(engine)
        handles = {
            name: engine.submit(
                Request(
                    token_ids=prompt,
                    adapter_id="" if name == "mix" else name,
                    adapters=mix if name == "mix" else (),
                    sampling=SamplingParams(max_new_tokens=count, ignore_eos=True),
                    request_id=f"of {name}",
                )
            )
            for name in expected
        }
        for name, yardstick in expected.items():
            tokens = list(handles[name].result().choices[0].token_ids)
            assert not exact or tokens == yardstick.tokens, name
            assert relative_error(recorder.of(f"of {name}"), yardstick.logits) < tolerance, name
    apart = [
        relative_error(e.logits[:1], expected[""].logits[:1])
        for name, e in expected.items()
        if name
    ]
    assert min(apart) > 3 * tolerance  # else the base alone would pass


@pytest.mark.parametrize("method", needing(*(m for m in METHODS if m not in WEIGHT_ONLY)))
def test_projections_equal_pefts_on_the_same_rows(
    method: str, make: Callable[[str], Path], adapters: dict[str, Path]
) -> None:
    """Rows of several adapters in one product, each as PEFT's module has it for that adapter alone."""
    base = BaseModel.load(make(method), dtype="float32")
    staged: dict[str, Any] = {}
    calls = {}
    for name in ("lora", "rslora", *(["dora"] if METHODS[method].peft_dora else [])):
        checked = read_adapter(adapters[name], base, max_bytes=1 << 30, max_added_tokens=0)
        staged[name] = base.stage_adapter(checked.updates)
        calls[name] = PeftReference(
            base=make(method), adapters={name: adapters[name]}
        ).linear_calls(tokens_of(PROMPT))
    modules = {module for each in calls.values() for module in each}
    assert modules <= base.frozen.quantised
    for module in sorted(modules):
        names = [name for name in calls if module in calls[name]]
        xs = torch.cat([calls[name][module][0] for name in names])
        expected = torch.cat([calls[name][module][1] for name in names])
        rows = len(xs) // len(names)
        base.frozen.context.updates = {
            module: [
                UpdateSegment(i * rows, (i + 1) * rows, staged[n].deltas[module], 1.0)
                for i, n in enumerate(names)
            ]
        }
        with torch.inference_mode():
            assert (
                relative_error(base.model.get_submodule(module)(xs[None])[0], expected)
                < METHODS[method].tolerance
            ), module


@pytest.mark.parametrize(
    "method",
    needing("torchao int8", "compressed-tensors int4", "bitsandbytes nf4", "bitsandbytes int8"),
)
def test_dora_takes_the_norms_of_the_weight_that_is_multiplied(
    method: str, make: Callable[[str], Path]
) -> None:
    base = BaseModel.load(make(method), dtype="float32")
    name = "model.layers.1.mlp.down_proj"
    module = base.model.get_submodule(name)
    with torch.inference_mode():
        weight = (module.forward(torch.eye(160)[None])[0]).double().t()
        a, b = torch.randn(3, 160), torch.randn(96, 3)
        norms = base.backend.weights.updated_norms(name, a, b, 0.3)
    expected = torch.linalg.norm(weight + 0.3 * b.double() @ a.double(), dim=1)
    tolerance = (
        1e-3 if method == "bitsandbytes int8" else 1e-5
    )  # its product rounds the ones that it is given
    torch.testing.assert_close(norms.double(), expected, rtol=tolerance, atol=0)


@pytest.mark.parametrize("method", needing("bitsandbytes nf4"))
def test_the_kernel_for_avx512(method: str, tmp_path: Path) -> None:
    """Where the CPU has it, bitsandbytes reorders weights of these sizes; of others it cannot."""
    plain = save_base(tmp_path / "plain", hidden_size=64, intermediate_size=128)
    base = quantise(plain, tmp_path / "base", method)
    adapter = save_adapter(plain, tmp_path / "adapter", target_modules=["q_proj", "down_proj"])
    expected = PeftReference(base, {"a": adapter}).greedy("a", tokens_of(PROMPT), TOKENS)
    with Engine(base, EngineConfig(dtype="float32", kv_cache_bytes=16 << 20)) as engine:
        engine.load_adapter(adapter, "a")
        request = Request(
            token_ids=tokens_of(PROMPT),
            adapter_id="a",
            sampling=SamplingParams(max_new_tokens=TOKENS, ignore_eos=True),
        )
        assert list(engine.generate(request).choices[0].token_ids) == expected.tokens
        name = "model.layers.0.mlp.down_proj"
        module: Any = engine.base.model.get_submodule(name)
        with torch.inference_mode():
            weight, a, b = (
                module.forward(torch.eye(128)[None])[0].t(),
                torch.randn(2, 128),
                torch.randn(64, 2),
            )
            norms = engine.base.backend.weights.updated_norms(name, a, b, 1.0)
            torch.testing.assert_close(
                norms, torch.linalg.norm(weight + b @ a, dim=1), rtol=1e-5, atol=0
            )


@pytest.mark.parametrize(
    "method", needing("torchao int8", "compressed-tensors fp8 static", "bitsandbytes nf4")
)
def test_the_device_path_leaves_quantised_projections_alone(
    method: str, make: Callable[[str], Path], adapters: dict[str, Path]
) -> None:
    """They are not stacked into one weight for q, k and v; their rows are the torch backend's."""
    outputs = []
    for base in (
        load_base(make(method), "reference"),
        BaseModel.load(make(method), dtype="float32"),
    ):
        with Engine(base, EngineConfig(kv_cache_bytes=16 << 20)) as engine:
            recorder = LogitsRecorder(engine)
            for name in ("lora", "dora", "bias"):
                engine.load_adapter(adapters[name], name)
            sampling = SamplingParams(max_new_tokens=1, ignore_eos=True)
            handles = [
                engine.submit(
                    Request(
                        token_ids=tokens_of(PROMPT),
                        adapter_id=name,
                        sampling=sampling,
                        request_id=f"of {name}",
                    )
                )
                for name in ("", "lora", "dora", "bias")
            ]
            for handle in handles:
                handle.result()
            outputs.append(
                torch.cat([recorder.of(f"of {name}") for name in ("", "lora", "dora", "bias")])
            )
        if isinstance(base.backend, TritonBackend):
            assert all(len(linear.names) == 1 for linear in base.backend.fused.linears)
            assert "quantised" in base.backend.fused.why_not_captured()
    assert relative_error(*outputs) < (0.1 if METHODS[method].rounds_activations else 1e-4)


@pytest.mark.parametrize(
    "method", needing("torchao int8", "compressed-tensors int4", "bitsandbytes nf4", "gptq")
)
def test_it_is_described_as_the_plain_base(
    method: str, make: Callable[[str], Path], plain: Path
) -> None:
    base, of_plain = BaseModel.load(make(method), dtype="float32"), describe_base(plain)
    described = describe_base(make(method))
    assert base.modules == described.modules == of_plain.modules
    assert base.identity == described.identity != of_plain.identity
    assert (
        base.num_parameters
        == BaseModel.load(plain, dtype="float32", kernels="torch").num_parameters
    )
    assert (program_of(base), len(base.frozen.quantised), base.dtype) == (None, 21, torch.float32)


def test_fp8_without_a_gpu_is_dequantised_and_served_as_any_base(
    make: Callable[[str], Path], adapters: dict[str, Path]
) -> None:
    base = BaseModel.load(make("fp8"), dtype="float32")
    assert (program_of(base) is not None, base.frozen.quantised) == (True, frozenset())
    assert base.identity == describe_base(make("fp8")).identity
    expected = PeftReference(make("fp8"), {"dora": adapters["dora"]}).greedy(
        "dora", tokens_of(PROMPT), TOKENS
    )
    with Engine(base, EngineConfig(kv_cache_bytes=16 << 20)) as engine:
        engine.load_adapter(adapters["dora"], "dora")
        request = Request(
            token_ids=tokens_of(PROMPT),
            adapter_id="dora",
            sampling=SamplingParams(max_new_tokens=TOKENS, ignore_eos=True),
        )
        assert list(engine.generate(request).choices[0].token_ids) == expected.tokens


@pytest.mark.parametrize(
    "method",
    [
        *needing("compressed-tensors int8 activations"),
        pytest.param(
            "bitsandbytes LLM.int8",
            marks=pytest.mark.skipif(
                find_spec("bitsandbytes") is None, reason="needs bitsandbytes"
            ),
        ),
    ],
)
def test_rows_that_influence_each_other(
    method: str, make: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    if method == "compressed-tensors int8 activations":
        assert (
            quantised.rows_depend_on_others(
                BaseModel.load(make(method), dtype="float32").model,
                frozenset({"model.norm"}),
                torch.float32,
                torch.device("cpu"),
            )
            == []
        )
        method = "compressed-tensors int8 per step"
    with pytest.raises(BaseModelError, match=r"layers\.0\.mlp\.down_proj.*allow_row_dependence"):
        BaseModel.load(make(method), dtype="float32")
    base = BaseModel.load(make(method), dtype="float32", allow_row_dependence=True)
    assert len(base.frozen.quantised) == 21
    assert "depends on what shares its steps" in caplog.text


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"quant_method": "aqlm"}, "quantised by 'aqlm', which is not supported"),
        ({"bits": 4}, "quantised by 'unknown'"),
        (
            {"quant_method": "bitsandbytes", "load_in_4bit": True},
            "'bitsandbytes_4bit', which needs the package bits",
        ),
        (
            {"quant_method": "gptq", "bits": 4},
            "'gptq', which needs the package gptqmodel and optimum",
        ),
        (
            {"quant_method": "compressed-tensors", "kv_cache_scheme": {"num_bits": 8}},
            "kv_cache_scheme",
        ),
    ],
)
def test_bases_that_are_refused(
    config: dict[str, Any],
    message: str,
    plain: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base = _with(plain, tmp_path / "base", config)
    absent = {"bitsandbytes", "gptqmodel", "optimum"}
    monkeypatch.setattr(quantised, "find_spec", lambda name: None if name in absent else object())
    with pytest.raises(BaseModelError, match=message):
        BaseModel.load(base, dtype="float32")


def test_a_base_without_its_weights_is_refused(plain: Path, tmp_path: Path) -> None:
    """transformers would start them at random."""
    base = tmp_path / "base"
    shutil.copytree(plain, base)
    tensors = load_file(base / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, base / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        BaseModelError, match=r"no weights for model\.layers\.1\.mlp\.up_proj\.weight"
    ):
        BaseModel.load(base, dtype="float32")


@pytest.mark.parametrize("method", needing("torchao int8"))
def test_what_a_quantised_module_cannot_take(
    method: str,
    make: Callable[[str], Path],
    plain: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(BaseModelError, match="int8 needs the C\\+\\+ kernels"):
        BaseModel.load(make(method), dtype="float32", weights="int8")
    base = BaseModel.load(make(method), dtype="float32")
    assert "weights are quantised" in caplog.text
    saved = save_adapter(
        plain, tmp_path / "saved", target_modules=["q_proj"], modules_to_save=["up_proj"]
    )
    with pytest.raises(
        AdapterError, match=r"weight on 'model\.layers\.\d\.mlp\.up_proj' .* is quantised"
    ):
        _stage(base, saved)
    ends = BaseModel.load(make("torchao int8 lm_head"), dtype="float32")
    assert ends.frozen.quantised == base.frozen.quantised | {"lm_head"}
    # As a method has it that packs embeddings.
    ends.backend.weights.quantised = ends.frozen.quantised | {"model.embed_tokens"}
    update = ModuleUpdate(a=torch.ones(1, 258), b=torch.ones(96, 1), magnitude=torch.ones(96))
    with pytest.raises(
        AdapterError, match=r"magnitude on 'model\.embed_tokens' .* a quantised embedding"
    ):
        ends.stage_adapter({"model.embed_tokens": update})
    assert ends.stage_adapter(
        {"model.embed_tokens": replace(update, magnitude=None)}
    ).num_bytes == 4 * (258 + 96)
    for lora, what in (
        ({"trainable_token_indices": {"lm_head": [1, 2]}}, "token_rows on 'lm_head'"),
        ({"trainable_token_indices": [1, 2]}, "token_rows on 'model.embed_tokens'"),
        ({"modules_to_save": ["lm_head"]}, "weight on 'lm_head'"),
    ):
        with pytest.raises(AdapterError, match=f"{what} is not supported: it is .*quantised"):
            _stage(ends, save_adapter(plain, tmp_path / what.replace(" ", "_"), **lora))
    for layer in base.model.model.layers:
        layer.mlp.up_proj.weight = None  # as a method has it whose weight nothing gives
    dora = save_adapter(plain, tmp_path / "dora", target_modules=["up_proj"], use_dora=True)
    with pytest.raises(AdapterError, match=r"use_dora on 'model\.layers\.\d\.mlp\.up_proj'.* norm"):
        _stage(base, dora)


def _stage(base: BaseModel, adapter: Path) -> None:
    base.stage_adapter(read_adapter(adapter, base, max_bytes=1 << 30, max_added_tokens=0).updates)


def _with(plain: Path, directory: Path, config: dict[str, Any]) -> Path:
    """The plain base with a quantization_config."""
    shutil.copytree(plain, directory)
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": config}))
    return directory
