"""Tiny quantised bases, made from a plain one as the methods' own tools would, without calibration."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, TorchAoConfig

from .models import make_tokenizer

GROUP = 32


def quantise(base: Path, directory: Path, method: str) -> Path:
    """`method`: a key of METHODS. The lm_head, embeddings and norms stay as they are."""
    METHODS[method](base, directory)
    make_tokenizer().save_pretrained(directory)
    return directory


def _by_transformers(make: Callable[[], Any]) -> Callable[[Path, Path], None]:
    def write(base: Path, directory: Path) -> None:
        model = AutoModelForCausalLM.from_pretrained(
            base, quantization_config=make(), dtype=torch.float32
        )
        model.save_pretrained(directory)

    return write


def _nf4() -> BitsAndBytesConfig:
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )


def _llm_int8(threshold: float) -> Callable[[], BitsAndBytesConfig]:
    return lambda: BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=threshold)


def _torchao(name: str, **options: Any) -> Callable[[], TorchAoConfig]:
    def make() -> TorchAoConfig:
        from torchao import quantization

        return TorchAoConfig(getattr(quantization, name)(), **options)

    return make


def _compressed_tensors(scheme: str, form: str, dynamic: str = "") -> Callable[[Path, Path], None]:
    """`dynamic`: what the scale of the activations is shared by, where that is not the scheme's own
    choice."""

    def write(base: Path, directory: Path) -> None:
        from compressed_tensors.compressors import ModelCompressor
        from compressed_tensors.quantization import (
            QuantizationConfig,
            apply_quantization_config,
            preset_name_to_scheme,
        )

        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        chosen = preset_name_to_scheme(scheme, ["Linear"])
        if chosen.weights.group_size:
            chosen.weights.group_size = GROUP
        if dynamic:
            chosen.input_activations.strategy = dynamic
        config = QuantizationConfig(config_groups={"all": chosen}, ignore=["lm_head"], format=form)
        apply_quantization_config(model, config)
        for module in model.modules():
            if hasattr(module, "quantization_scheme"):
                _take_scales(module)
        compressor = ModelCompressor(quantization_config=config)
        compressor.compress_model(model)
        model.save_pretrained(directory)
        compressor.update_config(directory)

    return write


def _take_scales(module: Any) -> None:
    """Of the weights by their extremes; of static activations one that cuts a few off."""
    from compressed_tensors.quantization.utils import calculate_qparams

    weight, args = module.weight.detach(), module.quantization_scheme.weights
    groups = {"channel": weight[:, None], "tensor": weight.reshape(1, 1, -1)}.get(
        args.strategy, weight.reshape(len(weight), -1, GROUP)
    )
    scale, _ = calculate_qparams(groups.amin(-1), groups.amax(-1), args)
    module.weight_scale.data = scale.reshape(module.weight_scale.shape).to(module.weight_scale)
    if getattr(module, "input_scale", None) is not None:
        module.input_scale.data.fill_(0.02)


def _packed(
    write: Callable[[torch.Tensor], dict[str, torch.Tensor]], **config: Any
) -> Callable[[Path, Path], None]:
    """`write`: (out, in) of a projection to the tensors that stand for it."""

    def save(base: Path, directory: Path) -> None:
        directory.mkdir()
        tensors: dict[str, torch.Tensor] = {}
        for name, tensor in load_file(base / "model.safetensors").items():
            if name.endswith("proj.weight"):
                tensors |= {
                    name.removesuffix("weight") + part: t for part, t in write(tensor).items()
                }
            else:
                tensors[name] = tensor
        save_file(tensors, directory / "model.safetensors", {"format": "pt"})
        shutil.copy(base / "generation_config.json", directory)
        written = json.loads((base / "config.json").read_text()) | {"quantization_config": config}
        (directory / "config.json").write_text(json.dumps(written))

    return save


def _int4(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(in, out) in 0 ... 15 with the zero at 8, and scales (groups, out)."""
    groups = weight.reshape(len(weight), -1, GROUP)
    scale = (groups.abs().amax(-1) / 7).half()
    values = (groups / scale[..., None].float()).round().clamp(-8, 7) + 8  # (out, groups, GROUP)
    return values.reshape(weight.shape).t().long().contiguous(), scale.t().contiguous()


def _pack(values: torch.Tensor, order: Sequence[int]) -> torch.Tensor:
    """Eight neighbours along the last dimension in one int32, in this order from the lowest bits."""
    parts = values.reshape(*values.shape[:-1], -1, 8)
    packed = torch.stack([parts[..., place] << (4 * i) for i, place in enumerate(order)]).sum(0)
    return torch.where(packed < 1 << 31, packed, packed - (1 << 32)).to(torch.int32)


def _gptq(weight: torch.Tensor) -> dict[str, torch.Tensor]:
    values, scale = _int4(weight)
    zeros = torch.full(scale.shape, 7)  # one less than they are, in its first format
    return {
        "qweight": _pack(values.t(), range(8)).t().contiguous(),
        "qzeros": _pack(zeros, range(8)),
        "scales": scale,
        "g_idx": (torch.arange(len(values)) // GROUP).to(torch.int32),
    }


def _awq(weight: torch.Tensor) -> dict[str, torch.Tensor]:
    values, scale = _int4(weight)
    order = (0, 2, 4, 6, 1, 3, 5, 7)
    return {
        "qweight": _pack(values, order).contiguous(),
        "qzeros": _pack(torch.full(scale.shape, 8), order),
        "scales": scale,
    }


def _fp8(weight: torch.Tensor) -> dict[str, torch.Tensor]:
    out, inputs = weight.shape
    blocks = weight.reshape(out // GROUP, GROUP, inputs // GROUP, GROUP)
    scale = blocks.abs().amax((1, 3)) / torch.finfo(torch.float8_e4m3fn).max
    values = (blocks / scale[:, None, :, None]).reshape(weight.shape).to(torch.float8_e4m3fn)
    return {"weight": values, "weight_scale_inv": scale}


METHODS: dict[str, Callable[[Path, Path], None]] = {
    "bitsandbytes nf4": _by_transformers(_nf4),
    "bitsandbytes int8": _by_transformers(_llm_int8(0.0)),
    "bitsandbytes LLM.int8": _by_transformers(_llm_int8(6.0)),
    "torchao int8": _by_transformers(_torchao("Int8WeightOnlyConfig")),
    "torchao int8 lm_head": _by_transformers(
        _torchao("Int8WeightOnlyConfig", include_input_output_embeddings=True)
    ),
    "torchao int8 activations": _by_transformers(_torchao("Int8DynamicActivationInt8WeightConfig")),
    "compressed-tensors int4": _compressed_tensors("W4A16", "pack-quantized"),
    "compressed-tensors int8 activations": _compressed_tensors("W8A8", "int-quantized"),
    "compressed-tensors fp8 activations": _compressed_tensors("FP8_DYNAMIC", "float-quantized"),
    "compressed-tensors fp8 static": _compressed_tensors("FP8", "float-quantized"),
    "compressed-tensors int8 per step": _compressed_tensors("W8A8", "int-quantized", "tensor"),
    "gptq": _packed(
        _gptq,
        quant_method="gptq",
        bits=4,
        group_size=GROUP,
        sym=True,
        desc_act=False,
        checkpoint_format="gptq",
        backend="torch",
    ),
    "awq": _packed(
        _awq,
        quant_method="awq",
        bits=4,
        group_size=GROUP,
        zero_point=True,
        version="gemm",
        backend="torch_awq",
    ),
    "fp8": _packed(
        _fp8, quant_method="fp8", weight_block_size=[GROUP, GROUP], activation_scheme="dynamic"
    ),
}
