"""The base's files: read by transformers, checked, identified."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from ..errors import BaseModelError
from . import quantised

Split = AbstractContextManager[dict[str, Any]]
"""Context in which from_pretrained, called with what it gives, reads a part of every tensor."""


_ADAPTER_CONFIG = "adapter_config.json"
_CHUNKED = "chunked_attention"
_LAYER_TYPES = {"full_attention", "sliding_attention", _CHUNKED}
_PLAIN_ROPE = {"default", "linear", "llama3", "yarn", "proportional"}
# Config fields that say where a base lies or how it is run, not what it is.
_INCIDENTAL = {
    "_name_or_path",
    "transformers_version",
    "dtype",
    "torch_dtype",
    "_attn_implementation",
    "distributed_config",
}
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def read_base(
    source: str | os.PathLike[str],
    dtype: torch.dtype,
    target: torch.device,
    split: Split | None = None,
    *,
    attention: str | None = None,
    packed: bool = True,
) -> tuple[Any, Any]:
    """Read transformers' model, or the part of it that `split` reads, and the tokenizer.

    A directory is never looked for on the hub. `attention`: an implementation by transformers'
    name; None: its choice. Raises BaseModelError for what cannot be loaded, weights that are not in
    the files, an adapter, and a quantisation that is not supported; without `packed` for any.
    """
    path = Path(source)
    # transformers would load the base that it names, and it on top.
    if (path / _ADAPTER_CONFIG).is_file():
        raise BaseModelError(
            f"base model {str(source)!r} has an {_ADAPTER_CONFIG}: it is an adapter, not a base"
        )
    here: dict[str, Any] = {"trust_remote_code": False, "local_files_only": path.is_dir()}
    try:
        config = AutoConfig.from_pretrained(source, **here)
        if not packed and (method := quantised.method_of(config)):
            raise ValueError(f"it is quantised ({method}), and the weights themselves are wanted")
        chosen = {} if attention is None else {"attn_implementation": attention}
        model = _load_model(
            source, quantised.check_method(config), dtype, target, split, here | chosen
        )
        return model, AutoTokenizer.from_pretrained(source, **here)
    except (ImportError, OSError, ValueError, RuntimeError) as error:
        raise BaseModelError(f"base model {str(source)!r} cannot be loaded: {error}") from error
    except Exception as error:  # whatever the code of an architecture raises
        raise BaseModelError(
            f"base model {str(source)!r} cannot be loaded: {type(error).__name__}: {error}"
        ) from error


def _load_model(
    source: str | os.PathLike[str],
    method: str,
    dtype: torch.dtype,
    target: torch.device,
    split: Split | None,
    options: dict[str, Any],
) -> Any:
    """Load the model. Raises ValueError for weights that are not in the files."""
    # A quantised weight is packed there, and never in full on another device.
    placed = {"device_map": {"": target}} if method else {}
    with nullcontext({}) if split is None else split as part:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source,
            dtype=dtype,
            use_safetensors=True,
            output_loading_info=True,
            **options,
            **placed,
            **part,
        )
    model, info = loaded
    if missing := sorted(info["missing_keys"]):
        raise ValueError(
            f"its files have no weights for {', '.join(missing[:3])} and {len(missing)} in all"
        )
    if method:
        quantised.prepare(model)
    return model if method or split is not None else model.to(target)


def resolve_device(device: str) -> torch.device:
    """Device of a setting; auto takes CUDA where there is one.

    Raises BaseModelError for a device that is not there.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        target = torch.device(device)
        torch.zeros(1, device=target).item()  # a meta device has no values to give
    except (RuntimeError, AssertionError) as error:
        raise BaseModelError(f"device {device!r} is not available: {error}") from error
    return target


def resolve_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """Dtype of a setting; auto is bfloat16 on CUDA and on CPUs with bf16 instructions, else
    float32."""
    if dtype == "auto":
        fast = device.type == "cuda" or torch.cpu.get_capabilities().get("avx512_bf16", False)
        return torch.bfloat16 if fast else torch.float32
    if dtype not in _DTYPES:
        raise BaseModelError(f"dtype {dtype!r} is none of auto, {', '.join(_DTYPES)}")
    return _DTYPES[dtype]


def check_architecture(model: Any, config: Any) -> tuple[int, str]:
    """Check the layers' kinds; gives the longest context that is served faithfully, and why it is
    not the base's whole one, empty where it is.

    Raises BaseModelError for unknown kinds, and where no context is said.
    """
    if getattr(config, "is_encoder_decoder", False):
        raise BaseModelError(f"{type(model).__name__} has an encoder: not supported")
    unknown = set(getattr(config, "layer_types", None) or ()) - _LAYER_TYPES
    if unknown:
        raise BaseModelError(
            f"{type(model).__name__} has layers of type {sorted(unknown)}: not supported"
        )
    if not isinstance(getattr(config, "max_position_embeddings", None), int):
        raise BaseModelError(
            f"{type(model).__name__} does not say max_position_embeddings: not supported"
        )
    if any(module.floor_scale < 2 for module in _tempered(model)):
        raise BaseModelError(
            f"{type(model).__name__} scales attention by the row of a step (attn_temperature_tuning) "
            "from the first position on: not supported"
        )
    whole = int(config.max_position_embeddings)
    limit, why = min(
        [(whole, ""), *_bounds(model, config), *_rope_bounds(config)], key=lambda bound: bound[0]
    )
    return int(limit), f"of the base's {whole}, {why}" if why else ""


def _bounds(model: nn.Module, config: Any) -> Iterator[tuple[int, str]]:
    """Contexts up to which rows see all others, and are the same wherever they are in a step."""
    if _CHUNKED in (getattr(config, "layer_types", None) or ()) and config.attention_chunk_size:
        yield int(config.attention_chunk_size), f"whose layers of {_CHUNKED} do not see beyond"
    for module in _tempered(model):
        yield (
            module.floor_scale - 1,
            "whose attention is scaled by the position from there on",
        )


def _rope_bounds(config: Any) -> Iterator[tuple[int, str]]:
    """Contexts of angles that any longer row of a step would change for every row."""
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = [rope] if "rope_type" in rope else [p for p in rope.values() if isinstance(p, dict)]
    scaled = [params for params in kinds if params["rope_type"] not in _PLAIN_ROPE]
    names = ", ".join(sorted({params["rope_type"] for params in scaled}))
    for params in scaled:
        if original := params.get("original_max_position_embeddings"):
            yield (
                int(original),
                f"whose rope scaling ({names}) changes the angles of every row in a step with a "
                "longer one",
            )


def _tempered(model: nn.Module) -> list[Any]:
    """Attention whose queries Llama 4 scales by their position: it takes rows of a step for them."""
    return [
        module
        for module in model.modules()
        if getattr(module, "attn_temperature_tuning", False) and not module.use_rope
    ]


def untempered(model: nn.Module) -> None:
    """Let no row's place in a step scale its queries: within the context no position does."""
    for module in _tempered(model):
        module.attn_temperature_tuning = False


def eos_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Ids that end an answer: those of the generation config and the tokenizer's."""
    ids: set[int] = set()
    for value in (model.generation_config.eos_token_id, tokenizer.eos_token_id):
        ids.update(value if isinstance(value, list) else [] if value is None else [value])
    return frozenset(ids)


def identity_of(path: Path, model: Any) -> str:
    """SHA-256 of the config and of every safetensors header and size: cheap, and blind only to
    changed values under unchanged shapes."""
    config = {k: v for k, v in model.config.to_dict().items() if k not in _INCIDENTAL}
    if path.is_dir():  # loading fills in the quantization_config, or drops it, by the device too
        config.pop("quantization_config", None)
        if written := json.loads((path / "config.json").read_bytes()).get("quantization_config"):
            config["quantization_config"] = written
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for file in sorted(path.glob("*.safetensors")) if path.is_dir() else []:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            digest.update(stream.read(min(length, 100 << 20)))
        digest.update(str(file.stat().st_size).encode())
    return digest.hexdigest()
