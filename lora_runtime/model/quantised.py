"""Bases whose weights transformers loads quantised, and what adapters may ask of them.

A LoRA beside a quantised projection needs nothing of its weight: y = quantised(x) + scaling * B (A
x), as in QLoRA (arXiv:2305.14314). What does need the weight (DoRA's norm) gets the values that the
method multiplies with, where its library gives them; else it is refused.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

# What transformers needs to load and run a base of each method that is served. Others are refused:
# nobody has looked at how their modules compute.
PACKAGES: dict[str, tuple[str, ...]] = {
    "bitsandbytes_4bit": ("bitsandbytes", "accelerate"),
    "bitsandbytes_8bit": ("bitsandbytes", "accelerate"),
    "torchao": ("torchao", "accelerate"),
    "compressed-tensors": ("compressed_tensors", "accelerate"),
    "gptq": ("gptqmodel", "optimum", "accelerate"),
    "awq": ("gptqmodel", "accelerate"),
    "fp8": ("accelerate",),
}
_PLAIN_DTYPES = {torch.float32, torch.bfloat16, torch.float16}


def check_method(config: Any) -> str:
    """Quantisation method of a base by its configuration; empty where there is none.

    Raises ValueError for a method that is not served, and for one whose package is missing.
    """
    quantisation = _quantisation(config)
    method = method_of(config)
    if not method:
        return ""
    if method not in PACKAGES:
        raise ValueError(
            f"it is quantised by {method!r}, which is not supported ({', '.join(PACKAGES)} are)"
        )
    if missing := [package for package in PACKAGES[method] if find_spec(package) is None]:
        raise ValueError(
            f"it is quantised by {method!r}, which needs the package {' and '.join(missing)}"
        )
    if quantisation.get("kv_cache_scheme") is not None:
        raise ValueError(
            "its quantization_config has a kv_cache_scheme: a quantised KV cache is not supported"
        )
    return method


def method_of(config: Any) -> str:
    """Name of the quantisation method as transformers has it; bitsandbytes with its bits."""
    quantisation = _quantisation(config)
    for bits in ("4bit", "8bit"):
        if quantisation.get(f"load_in_{bits}"):
            return f"bitsandbytes_{bits}"
    method = quantisation.get("quant_method") or ("unknown" if quantisation else "")
    return str(getattr(method, "value", method))


def _quantisation(config: Any) -> Mapping[str, Any]:
    """Quantisation config as read from the file, or as transformers' loader leaves it."""
    found = (
        getattr(config, "quantization_config", None)
        or getattr(config, "compression_config", None)
        or {}
    )
    return found if isinstance(found, Mapping) else found.to_dict()


def quantised_modules(model: Any) -> frozenset[str]:
    """Paths of the projections and embeddings whose products do not come from a plain weight alone.

    There are none in a base that was dequantised as it was loaded, as transformers does with fp8
    where there is no GPU.
    """
    if getattr(model, "hf_quantizer", None) is None:
        return frozenset()
    return frozenset(name for name, module in model.named_modules() if is_quantised(module))


def is_quantised(module: nn.Module) -> bool:
    """True if a projection or embedding computes from anything but a plain weight."""
    if not isinstance(module, nn.Embedding) and features(module, anything=True) is None:
        return False
    weight = getattr(module, "weight", None)
    plain = type(weight) is nn.Parameter and weight.dtype in _PLAIN_DTYPES
    # An attribute of compressed-tensors, for activations that are quantised.
    return not plain or getattr(module, "quantization_scheme", None) is not None


def features(module: nn.Module, *, anything: bool = False) -> tuple[int, int] | None:
    """Features (in, out) of a projection, which a packed weight's shape does not tell; None for a
    module that is none.

    `anything`: take a class that is no Linear for a projection if it says what it maps, as GPTQ's
    and AWQ's do.
    """
    if isinstance(module, Conv1D):
        return int(module.weight.shape[0]), int(module.weight.shape[1])
    if isinstance(module, nn.Linear) or anything:
        inputs, outputs = (
            getattr(module, "in_features", None),
            getattr(module, "out_features", None),
        )
        if isinstance(inputs, int) and isinstance(outputs, int):
            return inputs, outputs
    return None


def dequantised(module: Any) -> torch.Tensor | None:
    """Weight (out, in) that a quantised projection multiplies with, on its device; None where it
    cannot be had."""
    weight: Any = getattr(module, "weight", None)
    kind = type(weight).__name__
    if kind == "Params4bit":
        return _bitsandbytes_4bit(module)
    if kind == "Int8Params":
        from bitsandbytes.functional import int8_vectorwise_dequant

        scale = module.state.SCB if module.state.SCB is not None else weight.SCB
        return int8_vectorwise_dequant(weight.data, scale.to(weight.device))
    if type(weight).__module__.partition(".")[0] == "torchao":
        return weight.dequantize()
    # Such is a weight of compressed-tensors after its first forward.
    if type(weight) is nn.Parameter and weight.dtype in _PLAIN_DTYPES:
        return weight.detach()
    return None


def _bitsandbytes_4bit(module: Any) -> torch.Tensor:
    state = module.weight.quant_state
    # Reordered for its AVX-512 kernel: no function reads that.
    if getattr(state, "packing_format_for_cpu", False):
        from bitsandbytes import matmul_4bit

        # The product with every input alone.
        each = torch.eye(module.in_features, dtype=module.compute_dtype)
        return matmul_4bit(each, module.weight, quant_state=state).t()
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(module.weight.data, state)


def prepare(model: Any) -> None:
    """Keep bitsandbytes' 4-bit AVX-512 kernel from weights whose shape it cannot take, and its
    8-bit product from warning of every cast."""
    for module in model.modules():
        if getattr(module, "support_avx512bf16_for_cpu", False):
            block = module.weight.quant_state.blocksize
            module.support_avx512bf16_for_cpu = (
                module.out_features % 32 == 0 == module.in_features % block
            )
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)


def count_parameters(model: Any, quantised: frozenset[str]) -> int:
    """Count the parameters of the model that was quantised: a packed weight counts as what it
    stands for, scales not at all."""
    total, seen = 0, set()
    for name, module in model.named_modules():
        own = dict(module.named_parameters(recurse=False))
        if name in quantised and (sizes := features(module, anything=True)) is not None:
            total += sizes[0] * sizes[1]
            own = {"bias": bias} if (bias := getattr(module, "bias", None)) is not None else {}
        for parameter in own.values():
            if id(parameter) not in seen:
                seen.add(id(parameter))
                total += parameter.numel()
    return total


@torch.inference_mode()
def rows_depend_on_others(
    model: Any, quantised: frozenset[str], dtype: torch.dtype, device: torch.device
) -> list[str]:
    """Find projections where one row's product changes with the rows beside it, by trying.

    Such are LLM.int8's (arXiv:2208.07339), which multiplies a column in 16 bits if any row has an
    outlier there, and those that scale the activations of a whole step together. The shapes are the
    same in both products, so a projection that takes its rows one by one gives the same bits.
    """
    found = []
    for name in sorted(quantised):
        module = model.get_submodule(name)
        sizes = features(module, anything=True)
        if sizes is None:
            continue
        generator = torch.Generator().manual_seed(0)
        row = torch.randn(sizes[0], generator=generator)
        other = 64 * torch.randn(sizes[0], generator=generator)
        calm, wild = (
            module(torch.stack([row, beside])[None].to(device, dtype))[0, 0]
            for beside in (row, other)
        )
        if not torch.equal(calm, wild):
            found.append(name)
    return found
