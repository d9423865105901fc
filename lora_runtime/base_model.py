"""The frozen base model: loaded once by transformers, never changed."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, Self

from .adapters.device import DeviceAdapter, StagedAdapter
from .adapters.peft.update import ModuleUpdate
from .backends.backend import Backend, ModelRunner, RunnerSpec
from .backends.choose import open_base
from .config import BaseConfig
from .errors import AdapterCapacityError, EngineFailedError
from .model.files import BaseFiles, LoadedBase
from .model.frozen import FrozenModel


class BaseModel:
    """A frozen model, and the backend that computes its steps.

    `modules`: those that an adapter may change, by the paths that PEFT names too; `kv_shapes` lists
    (kv_heads, key dim, value dim) per layer; `identity` is a SHA-256 over the files' headers;
    `kernel_names`: implementations by op.
    """

    def __init__(self, backend: Backend) -> None:
        """Take the backend. `load` makes a base from files, `of` from a model in memory."""
        self.backend = backend
        self.frozen = frozen = backend.frozen
        self.model, self.tokenizer = frozen.model, frozen.tokenizer
        self.name, self.identity = frozen.name, frozen.identity
        self.device, self.dtype, self.config = frozen.device, frozen.dtype, frozen.config
        self.modules, self.kv_shapes = frozen.modules, frozen.kv_shapes
        self.vocab_size, self.max_added_tokens = frozen.vocab_size, frozen.max_added_tokens
        self.max_context, self.eos_token_ids = frozen.max_context, frozen.eos_token_ids
        self.num_parameters = frozen.num_parameters
        self.attention_span = frozen.attention_span
        self.kernel_names = backend.names
        self.sample_rows = backend.sample_rows
        self.shares_host_memory = backend.shares_host_memory

    @classmethod
    def load(
        cls,
        source: str | os.PathLike[str],
        config: BaseConfig | None = None,
        *,
        lora: bool = True,
        **settings: Any,
    ) -> Self:
        """Load a directory with config.json, safetensors and a tokenizer, or a hub id if
        `trust_hub`.

        `settings`: fields of BaseConfig, which go before those of `config`; `attention_route` is
        its `attention`. Without `lora` the base takes no adapters. Raises BaseModelError when it is
        not there, not safetensors, quantised by a method that is not supported or not installed,
        not servable faithfully, or not with what was asked for by name; ValueError for a setting's
        value that is none.
        """
        return cls(open_base(BaseFiles(source, _config(config, settings), lora=lora)))

    @classmethod
    def of(
        cls,
        model: Any,
        tokenizer: Any,
        name: str,
        *,
        identity: str = "",
        lora: bool = True,
        **settings: Any,
    ) -> Self:
        """Serve a model of transformers that is in memory, with attention "eager".

        Arguments and errors as `load`.
        """
        config = _config(None, settings)
        frozen = FrozenModel(model, tokenizer, name, identity, config, lora=lora)
        return cls(open_base(LoadedBase(frozen, config)))

    def close(self) -> None:
        """End the processes that run beside this one for the base.

        Idempotent; the base computes nothing after it.
        """
        self.backend.close()

    def make_runner(self, num_blocks: int, block_size: int, **options: Any) -> ModelRunner:
        """Make a KV cache of `num_blocks` blocks, and the runner of steps on it.

        `options`: as in RunnerSpec.
        """
        return self.backend.make_runner(RunnerSpec(num_blocks, block_size, **options))

    def open_slots(self, slots: int) -> None:
        """Make room for `slots` adapters, before any is placed.

        Engines that share the base share its slots: the first that wants any makes them. Raises
        ValueError when there are fewer than the next one wants.
        """
        self.backend.open_slots(slots)

    def stage_adapter(self, updates: Mapping[str, ModuleUpdate]) -> StagedAdapter:
        """Stage an adapter: its tensors as this base's forward reads them, in host memory.

        For any thread, beside steps. Raises AdapterError naming the module for what that cannot
        take, AdapterCapacityError if the base takes no adapters at all.
        """
        if not self.frozen.takes_adapters:
            raise AdapterCapacityError(
                "the base was loaded without adapter slots: it takes no adapters"
            )
        return self.backend.stage(updates)

    def place_adapter(self, staged: StagedAdapter) -> DeviceAdapter:
        """Put a staged adapter on the device; where that is the host nothing is copied.

        For any thread, beside steps. Never waits. Raises AdapterCapacityError when the device has
        no room for it.
        """
        return self.backend.place(staged)

    def remove_adapter(self, adapter: DeviceAdapter) -> None:
        """Take an adapter off the device; no step that is planned from now on has it."""
        self.backend.remove(adapter)

    def captures(self) -> bool:
        """Tell whether decode steps can be CUDA graphs."""
        return self.backend.captures()

    def on_failure(self, call: Callable[[EngineFailedError], object]) -> None:
        """Call `call` once, on any thread, when a process that steps need beside this one ends."""
        self.backend.on_failure(call)


def _config(config: BaseConfig | None, settings: dict[str, Any]) -> BaseConfig:
    if "attention_route" in settings:
        settings["attention"] = settings.pop("attention_route")
    base = {f.name: getattr(config, f.name) for f in fields(BaseConfig)} if config else {}
    return BaseConfig(**{**base, **settings})
