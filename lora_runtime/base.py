"""The frozen base model: loaded once by transformers, never changed."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from .errors import AdapterCapacityError, BaseModelError
from .kernels import select
from .kernels.cpu.adapter import CpuAdapter
from .kernels.cpu.build import NoKernelsError, host_target
from .kernels.cpu.ops import sample_rows
from .kernels.cpu.program import Program
from .kernels.lora import DeviceAdapter, LoraWeights, TorchAdapter
from .kernels.sampling import sample_rows_reference
from .model import attention
from .model.compiled import ProgramMismatchError, compile_program
from .model.projection import LoraProjection, wrap_projections
from .model.state import AttentionCall, StepState

log = logging.getLogger(__name__)

_LAYER_TYPES = {"full_attention", "sliding_attention"}
_PLAIN_ROPE = {"default", "linear", "llama3", "yarn", "proportional"}
# Config fields that say where a base lies or how it is run, not what it is.
_INCIDENTAL = {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "_attn_implementation"}
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class BaseModel:
    """A causal language model with loramux's projections and attention swapped in.

    `projections` maps module paths, as PEFT names them, to the wrapped linears; `kv_shapes` lists
    (kv_heads, key dim, value dim) per layer; `identity` is a SHA-256 over the files' headers.
    """

    def __init__(
        self, model: Any, tokenizer: Any, name: str, identity: str, *, kernels: str = "auto", weights: str = "auto",
        lora: bool = True,
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.name = name
        self.identity = identity
        self.device: torch.device = model.device
        self.dtype: torch.dtype = model.dtype
        self.config = model.config.get_text_config()
        self.max_context = _check_architecture(model, self.config)
        self._module_names = frozenset(name for name, _ in model.named_modules())
        self.num_parameters = sum(p.numel() for p in model.parameters())
        self.forward_lock = threading.Lock()
        """Engines that share a base in one process take turns."""
        self.vocab_size = int(self.config.vocab_size)
        self.state = StepState(select(self.device))
        self.projections: dict[str, LoraProjection] = wrap_projections(model, self.state, model.get_output_embeddings())
        attention.register()
        attention.attach(model, self.state)
        model.set_attn_implementation(attention.IMPLEMENTATION)
        self.attention_calls = self._dry_run()
        self.kv_shapes = [(c.kv_heads, c.dim, c.dim_v) for c in self.attention_calls]
        self.eos_token_ids = _eos_ids(model, tokenizer)
        self.kernel_names = dict(self.state.kernels.names)
        self.takes_adapters = lora
        self.sample_rows = sample_rows_reference
        self.program = self._compile(kernels, weights, lora)
        """The whole step in C++, or None: then transformers' forward runs."""

    @classmethod
    def load(cls, source: str | os.PathLike[str], *, device: str = "auto", dtype: str = "auto",
             trust_hub: bool = False, kernels: str = "auto", weights: str = "auto", lora: bool = True) -> BaseModel:
        """Load a directory with config.json, safetensors and a tokenizer, or a hub id if `trust_hub`.

        `kernels`, `weights`: see EngineConfig; without `lora` the base takes no adapters. Raises
        BaseModelError when it is not there, not safetensors, or not servable faithfully.
        """
        path = Path(source)
        if not path.is_dir() and not trust_hub:
            raise BaseModelError(f"base model {str(source)!r} is not a directory (hub ids need trust_hub)")
        target = resolve_device(device)
        try:
            model: Any = AutoModelForCausalLM.from_pretrained(
                source, dtype=resolve_dtype(dtype, target), use_safetensors=True, trust_remote_code=False,
                attn_implementation="eager",
            )
            model = model.to(target)
            tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise BaseModelError(f"base model {str(source)!r} cannot be loaded: {error}") from error
        try:
            return cls(model, tokenizer, path.name if path.is_dir() else str(source), identity_of(path, model),
                       kernels=kernels, weights=weights, lora=lora)
        except ProgramMismatchError as error:
            log.warning("going on without the C++ kernels: %s", error)
        return cls.load(source, device=device, dtype=dtype, trust_hub=trust_hub, kernels="torch", weights=weights,
                        lora=lora)

    def place_adapter(self, weights: dict[str, LoraWeights]) -> DeviceAdapter:
        """The adapter as this base's forward reads it.

        Raises ValueError for what that cannot take, AdapterCapacityError if it takes no adapters at all.
        """
        if not self.takes_adapters:
            raise AdapterCapacityError("the base was loaded without adapter slots: it takes no adapters")
        return TorchAdapter(weights) if self.program is None else CpuAdapter(weights, list(self.projections))

    def has_module(self, path: str) -> bool:
        """Whether the base has any module at this path, a target projection or not."""
        return path in self._module_names

    @torch.inference_mode()
    def _dry_run(self) -> list[AttentionCall]:
        """One small forward: shows that every layer uses our attention, and how."""
        tokens = torch.zeros(1, 4, dtype=torch.long, device=self.device)
        self.model(input_ids=tokens, position_ids=torch.arange(4, device=self.device)[None], use_cache=False)
        calls, layers = self.state.calls, self.config.num_hidden_layers
        if sorted(calls) != list(range(layers)):
            raise BaseModelError(
                f"{type(self.model).__name__} runs attention in layers {sorted(calls)} of {layers} through the "
                "attention interface: not supported"
            )
        return [calls[i] for i in range(layers)]

    def _compile(self, kernels: str, weights: str, lora: bool) -> Program | None:
        if self.device.type == "cpu" and kernels == "auto":
            try:
                program = compile_program(self, lora=lora, int8=weights == "int8")
            except ProgramMismatchError:
                raise
            except NoKernelsError as error:
                log.warning("no C++ kernels, torch's are used: %s", error)
            else:
                name = f"cpp/{host_target()}"
                self.sample_rows = sample_rows
                self.kernel_names = dict.fromkeys(("lora", "paged_attention", "linear", "sampling", "step"), name)
                if weights == "int8":
                    self.kernel_names["linear"] += "/int8"
                return program
        if weights == "int8":
            raise BaseModelError("weights int8 needs the C++ kernels, which this base cannot use here")
        return None


def resolve_device(device: str) -> torch.device:
    """auto takes CUDA where there is one. Raises BaseModelError for a device that is not there."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        target = torch.device(device)
        torch.empty(1, device=target)
    except (RuntimeError, AssertionError) as error:
        raise BaseModelError(f"device {device!r} is not available: {error}") from error
    return target


def resolve_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """auto takes bfloat16 on CUDA and on CPUs with bf16 instructions, else float32."""
    if dtype == "auto":
        fast = device.type == "cuda" or torch.cpu.get_capabilities().get("avx512_bf16", False)
        return torch.bfloat16 if fast else torch.float32
    if dtype not in _DTYPES:
        raise BaseModelError(f"dtype {dtype!r} is none of auto, {', '.join(_DTYPES)}")
    return _DTYPES[dtype]


def _check_architecture(model: Any, config: Any) -> int:
    """The longest context that is served faithfully; raises BaseModelError for unknown layer kinds."""
    if not getattr(model, "_supports_attention_backend", False) or config.is_encoder_decoder:
        raise BaseModelError(f"{type(model).__name__} does not support pluggable attention in transformers")
    unknown = set(getattr(config, "layer_types", None) or ()) - _LAYER_TYPES
    if unknown:
        raise BaseModelError(f"{type(model).__name__} has layers of type {sorted(unknown)}: not supported")
    limit = int(config.max_position_embeddings)
    rope = getattr(config, "rope_parameters", None) or {}
    for params in [rope] if "rope_type" in rope else [p for p in rope.values() if isinstance(p, dict)]:
        if params["rope_type"] not in _PLAIN_ROPE:
            # These change every row's angles once any row of the batch is long: stay below that.
            limit = min(limit, int(params.get("original_max_position_embeddings") or limit))
    return limit


def _eos_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    ids: set[int] = set()
    for value in (model.generation_config.eos_token_id, tokenizer.eos_token_id):
        ids.update(value if isinstance(value, list) else [] if value is None else [value])
    return frozenset(ids)


def identity_of(path: Path, model: Any) -> str:
    """SHA-256 of the config and of every safetensors header and size: cheap, and blind only to
    changed values under unchanged shapes."""
    config = {k: v for k, v in model.config.to_dict().items() if k not in _INCIDENTAL}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for file in sorted(path.glob("*.safetensors")) if path.is_dir() else []:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            digest.update(stream.read(min(length, 100 << 20)))
        digest.update(str(file.stat().st_size).encode())
    return digest.hexdigest()
