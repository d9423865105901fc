"""The frozen base model: loaded once by transformers, never changed."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from .adapters.update import BaseModule, ModuleKind, ModuleUpdate
from .errors import AdapterCapacityError, BaseModelError
from .kernels import select
from .kernels.adapter import DeviceAdapter, StagedAdapter, TorchAdapter
from .kernels.cpu.adapter import CpuAdapter
from .kernels.cpu.build import NoKernelsError, host_target
from .kernels.cpu.ops import sample_rows
from .kernels.cpu.program import Program
from .kernels.cpu.weights import PackedLinear
from .kernels.sampling import sample_rows_reference
from .model import attention, hooks
from .model.compiled import ProgramMismatchError, compile_program
from .model.modules import base_modules
from .model.staging import Stager
from .model.state import AttentionCall, StepState
from .model.tensors import BaseTensors

log = logging.getLogger(__name__)

_LAYER_TYPES = {"full_attention", "sliding_attention"}
_PLAIN_ROPE = {"default", "linear", "llama3", "yarn", "proportional"}
# Config fields that say where a base lies or how it is run, not what it is.
_INCIDENTAL = {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "_attn_implementation"}
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class BaseModel:
    """A causal language model whose modules take adapters, with loramux's attention swapped in.

    `modules`: what an adapter may change, by the paths that PEFT names too; `kv_shapes` lists
    (kv_heads, key dim, value dim) per layer; `identity` is a SHA-256 over the files' headers.
    """

    def __init__(
        self, model: Any, tokenizer: Any, name: str, identity: str, *, kernels: str = "auto", weights: str = "auto",
        lora: bool = True, max_added_tokens: int = 64,
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.name = name
        self.identity = identity
        self.device: torch.device = model.device
        self.dtype: torch.dtype = model.dtype
        self.config = model.config.get_text_config()
        self.max_context = _check_architecture(model, self.config)
        self.num_parameters = sum(p.numel() for p in model.parameters())
        self.forward_lock = threading.Lock()
        """Engines that share a base in one process take turns."""
        self.vocab_size = int(self.config.vocab_size)
        self.state = StepState(select(self.device))
        self.modules: dict[str, BaseModule] = base_modules(model)
        self.head_name = next((n for n, m in self.modules.items() if m.kind is ModuleKind.LM_HEAD), "")
        self.max_added_tokens = max_added_tokens if lora else 0
        """Columns of the logits behind the vocabulary, for tokens that adapters add."""
        self._table = {name: i for i, name in enumerate(self.modules)}
        hooks.attach(model, self.modules, self.state)
        attention.register()
        attention.attach(model, self.state)
        model.set_attn_implementation(attention.IMPLEMENTATION)
        self.attention_calls = self._dry_run()
        self.kv_shapes = [(c.kv_heads, c.dim, c.dim_v) for c in self.attention_calls]
        self.eos_token_ids = eos_ids(model, tokenizer)
        self.kernel_names = dict(self.state.kernels.names)
        self.takes_adapters = lora
        self.sample_rows = sample_rows_reference
        packed: dict[str, PackedLinear] = {}
        self.program = self._compile(kernels, weights, lora, packed)
        """The whole step in C++, or None: then transformers' forward runs."""
        self._tensors = BaseTensors(model, self.modules, self.dtype, packed)

    @classmethod
    def load(cls, source: str | os.PathLike[str], *, device: str = "auto", dtype: str = "auto",
             trust_hub: bool = False, kernels: str = "auto", weights: str = "auto", lora: bool = True,
             max_added_tokens: int = 64) -> BaseModel:
        """Load a directory with config.json, safetensors and a tokenizer, or a hub id if `trust_hub`.

        `kernels`, `weights`, `max_added_tokens`: see EngineConfig; without `lora` the base takes no adapters. Raises
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
                       kernels=kernels, weights=weights, lora=lora, max_added_tokens=max_added_tokens)
        except ProgramMismatchError as error:
            log.warning("going on without the C++ kernels: %s", error)
        return cls.load(source, device=device, dtype=dtype, trust_hub=trust_hub, kernels="torch", weights=weights,
                        lora=lora, max_added_tokens=max_added_tokens)

    def stage_adapter(self, updates: Mapping[str, ModuleUpdate]) -> StagedAdapter:
        """The adapter as this base's forward reads it, in host memory. For any thread, beside steps.

        Raises AdapterError naming the module for what that cannot take, AdapterCapacityError if the base takes no
        adapters at all.
        """
        if not self.takes_adapters:
            raise AdapterCapacityError("the base was loaded without adapter slots: it takes no adapters")
        deltas = Stager(self._tensors, self.max_added_tokens).stage(updates)
        if self.program is not None:
            return CpuAdapter(deltas, self._table)
        staged = TorchAdapter(deltas)
        return staged.pinned() if self.device.type == "cuda" else staged

    def place_adapter(self, staged: StagedAdapter) -> DeviceAdapter:
        """On the device; where that is the host nothing is copied."""
        if isinstance(staged, TorchAdapter) and self.device.type != "cpu":
            return staged.to(self.device)
        return staged

    @torch.inference_mode()
    def _dry_run(self) -> list[AttentionCall]:
        """One small forward: shows that every layer uses our attention, and how."""
        rows = self.config.num_attention_heads + 1  # tells rows from heads, see hooks
        tokens = torch.zeros(1, rows, dtype=torch.long, device=self.device)
        self.state.dry_rows = rows
        self.model(input_ids=tokens, position_ids=torch.arange(rows, device=self.device)[None], use_cache=False)
        self.state.dry_rows = 0
        calls, layers = self.state.calls, self.config.num_hidden_layers
        if sorted(calls) != list(range(layers)):
            raise BaseModelError(
                f"{type(self.model).__name__} runs attention in layers {sorted(calls)} of {layers} through the "
                "attention interface: not supported"
            )
        return [calls[i] for i in range(layers)]

    def _compile(self, kernels: str, weights: str, lora: bool, packed: dict[str, PackedLinear]) -> Program | None:
        """`packed` gets the weights that the modules lose to the program."""
        if self.device.type == "cpu" and kernels == "auto":
            try:
                program, own = compile_program(self, lora=lora, int8=weights == "int8")
                packed |= own
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
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for file in sorted(path.glob("*.safetensors")) if path.is_dir() else []:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            digest.update(stream.read(min(length, 100 << 20)))
        digest.update(str(file.stat().st_size).encode())
    return digest.hexdigest()
