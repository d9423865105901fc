"""The frozen base model: loaded once by transformers, never changed."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .adapters.device import DeviceAdapter, StagedAdapter
from .adapters.peft.update import BaseModule, ModuleKind, ModuleUpdate
from .backends.cpp.check import ProgramMismatchError, compile_program
from .backends.staging import Stager
from .backends.triton.fused import FusedLinears, SingleLinear, fuse
from .backends.triton.placement import FlatAdapter, Placer, SlotAdapter
from .backends.triton.streams import copy_stream, work_streams
from .errors import AdapterCapacityError, BaseModelError
from .kernels import select
from .kernels.adapter import TorchAdapter
from .kernels.cpu.adapter import CpuAdapter
from .kernels.cpu.build import NoKernelsError, host_target
from .kernels.cpu.ops import sample_rows
from .kernels.cpu.program import Program
from .kernels.cpu.weights import PackedLinear
from .kernels.sampling import sample_rows_reference
from .kernels.sampling_batched import sample_rows_batched
from .model import attention, hooks, quantised
from .model.elementwise import compile_elementwise
from .model.modules import base_modules
from .model.step_context import AttentionCall, StepState
from .model.weights import BaseTensors

if TYPE_CHECKING:
    from .backends.tensor_parallel.group import ParallelGroup
    from .backends.tensor_parallel.process_group import Member

from .model.loading import (
    check_architecture,
    check_source,
    eos_ids,
    identity_of,
    read_base,
    resolve_device,
    resolve_dtype,
)

log = logging.getLogger(__name__)


class BaseModel:
    """A causal language model whose modules take adapters, with loramux's attention swapped in.

    `modules`: what an adapter may change, by the paths that PEFT names too; `kv_shapes` lists
    (kv_heads, key dim, value dim) per layer; `identity` is a SHA-256 over the files' headers. `quantised`: modules
    that are computed by their own forward alone, because their weight is packed.
    """

    def __init__(
        self, model: Any, tokenizer: Any, name: str, identity: str, *, kernels: str = "auto", weights: str = "auto",
        attention_route: str = "auto", lora: bool = True, max_added_tokens: int = 64, compile: str = "off",
        allow_row_dependence: bool = False, member: Member | None = None, group: ParallelGroup | None = None,
    ) -> None:
        """`member`: the rank whose part of the base this is; `group`: on rank 0, the others."""
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.name = name
        self.identity = identity
        self.device: torch.device = model.device
        self.dtype: torch.dtype = model.dtype
        self.config = model.config.get_text_config()
        self.max_context = check_architecture(model, self.config)
        self.quantised = quantised.quantised_modules(model)
        self.num_parameters = quantised.count_parameters(model, self.quantised)
        self.forward_lock = threading.Lock()
        """Engines that share a base in one process take turns."""
        self.vocab_size = int(self.config.vocab_size)
        self.state = StepState(select(self.device, kernels, attention_route))
        self.modules: dict[str, BaseModule] = base_modules(model, self.quantised)
        self.head_name = next((n for n, m in self.modules.items() if m.kind is ModuleKind.LM_HEAD), "")
        self.max_added_tokens = max_added_tokens if lora else 0
        """Columns of the logits behind the vocabulary, for tokens that adapters add."""
        self._table = {name: i for i, name in enumerate(self.modules)}
        self.group = group
        """The other ranks of a base that is split, to be ended by `close`."""
        hooks.attach(model, self.modules, self.state, None if member is None else member.hook)
        attention.register()
        attention.attach(model, self.state)
        model.set_attn_implementation(attention.IMPLEMENTATION)
        self._dry_run()
        self.attention_calls = self._attention_calls()
        self._check_rows(allow_row_dependence)
        self.kv_shapes = [(c.kv_heads, c.dim, c.dim_v) for c in self.attention_calls]
        for _, dim, dim_v in self.kv_shapes:
            self.state.kernels.check_heads(dim, dim_v, self.dtype)
        self.eos_token_ids = eos_ids(model, tokenizer)
        self.kernel_names = dict(self.state.kernels.names)
        if self.quantised:
            self.kernel_names["linear"] = f"{quantised.method_of(model.config)}/{self.device.type}"
        self.takes_adapters = lora
        self.sample_rows = sample_rows_reference if self.device.type == "cpu" else sample_rows_batched
        self.linears: Sequence[FusedLinears | SingleLinear] = ()
        """On the device path: the linear maps as they are computed, in the order of the slot table."""
        self.host_reads: Sequence[str] = ()
        """Why its forward cannot be captured as a CUDA graph."""
        self.fused_error = 0.0
        """What computing projections of one input together made of the logits: a relative root-mean-square."""
        if self.state.kernels.update_group is not None:
            self.linears, self.host_reads, self.fused_error = fuse(model, self.modules, self.state, self._dry_run)
        packed: dict[str, PackedLinear] = {}
        self.program = self._compile(kernels, weights, lora, packed)
        """The whole step in C++, or None: then transformers' forward runs."""
        if compile == "elementwise":
            self._compile_elementwise()
        self._tensors = BaseTensors(model, self.modules, self.dtype, packed, self.quantised)
        if group is not None:
            self._tensors = group.tensors(model, self.modules, self.dtype)
            self.kernel_names["step"] = f"torch/tensor-parallel/{group.plan.world}"
        self._streams = work_streams(self.device)
        self.placer: Placer | None = None
        """The slots of the device path; None where adapters need no copy, or the torch path makes it."""

    @classmethod
    def load(cls, source: str | os.PathLike[str], *, device: str = "auto", dtype: str = "auto",
             trust_hub: bool = False, kernels: str = "auto", weights: str = "auto", attention_route: str = "auto",
             lora: bool = True, max_added_tokens: int = 64, compile: str = "off",
             allow_row_dependence: bool = False, tensor_parallel: int = 1) -> BaseModel:
        """Load a directory with config.json, safetensors and a tokenizer, or a hub id if `trust_hub`.

        `kernels`, `weights`, `attention_route` (its `attention`), `max_added_tokens`, `compile`,
        `allow_row_dependence`, `tensor_parallel`: see EngineConfig; without `lora` the base takes no adapters. Raises
        BaseModelError when it is not there, not safetensors, quantised by a method that is not supported or not
        installed, not servable faithfully, or not with what was asked for by name.
        """
        if tensor_parallel > 1:
            try:
                from .backends.tensor_parallel.load import load_parallel
            except ImportError as error:
                raise BaseModelError(f"tensor_parallel needs transformers 5.20 or newer: {error}") from error
            unsplit = {"kernels": kernels, "weights": weights, "attention": attention_route, "compile": compile}
            return load_parallel(source, tensor_parallel, device, unsplit, {
                "dtype": dtype, "trust_hub": trust_hub, "lora": lora, "max_added_tokens": max_added_tokens,
                "allow_row_dependence": allow_row_dependence})
        load = partial(cls.load_part, source, device=device, dtype=dtype, trust_hub=trust_hub, weights=weights,
                       attention_route=attention_route, lora=lora, max_added_tokens=max_added_tokens, compile=compile,
                       allow_row_dependence=allow_row_dependence)
        try:
            return load(kernels=kernels)
        except ProgramMismatchError as error:
            log.warning("going on without the C++ kernels: %s", error)
        return load(kernels="torch")

    @classmethod
    def load_part(cls, source: str | os.PathLike[str], *, device: str, dtype: str, trust_hub: bool, kernels: str,
                  weights: str, attention_route: str, lora: bool, max_added_tokens: int, compile: str,
                  allow_row_dependence: bool, member: Member | None = None, group: ParallelGroup | None = None
                  ) -> BaseModel:
        """What `load` does, here and now; of a split base, `member`'s part. Raises as `load`, ProgramMismatchError."""
        path = Path(source)
        check_source(source, trust_hub)
        target = resolve_device(device)
        model, tokenizer = read_base(source, resolve_dtype(dtype, target), target, member, attention="eager")
        return cls(model, tokenizer, path.name if path.is_dir() else str(source), identity_of(path, model),
                   kernels=kernels, weights=weights, attention_route=attention_route, lora=lora,
                   max_added_tokens=max_added_tokens, compile=compile, allow_row_dependence=allow_row_dependence,
                   member=member, group=group)

    def close(self) -> None:
        """End what runs beside this process for the base. Idempotent; the base computes nothing after it."""
        if self.group is not None:
            self.group.close()

    def stage_adapter(self, updates: Mapping[str, ModuleUpdate]) -> StagedAdapter:
        """The adapter as this base's forward reads it, in host memory. For any thread, beside steps.

        Raises AdapterError naming the module for what that cannot take, AdapterCapacityError if the base takes no
        adapters at all.
        """
        if not self.takes_adapters:
            raise AdapterCapacityError("the base was loaded without adapter slots: it takes no adapters")
        with self._streams.own():
            deltas = Stager(self._tensors, self.max_added_tokens).stage(updates)
        if self.group is not None:
            return self.group.stage(deltas, self.modules)
        if self.program is not None:
            return CpuAdapter(deltas, self._table)
        if self.placer is not None:
            return FlatAdapter(deltas, self.placer.copies.pinned)
        staged = TorchAdapter(deltas)
        return staged.pinned() if self.device.type == "cuda" else staged

    def open_slots(self, order: Sequence[str], slots: int) -> None:
        """Let adapters be placed by a Placer: `order` are the linear maps that its table holds. Before any is staged.

        Engines that share the base share its slots. Raises ValueError when there are fewer than the next one wants.
        """
        if self.placer is None:
            modules = {name: self.modules[name] for name in order}
            self.placer = Placer(modules, slots, self.dtype, copy_stream(self.device))
        elif slots > self.placer.table.slots:
            raise ValueError(f"max_adapters {slots}: the base's slots were made for {self.placer.table.slots} adapters")

    def place_adapter(self, staged: StagedAdapter) -> DeviceAdapter:
        """On the device; where that is the host nothing is copied. For any thread, beside steps; never waits.

        Raises AdapterCapacityError when the device has no room for it.
        """
        if isinstance(staged, FlatAdapter):
            assert self.placer is not None
            return self.placer.place(staged)
        if isinstance(staged, TorchAdapter) and self.device.type != "cpu":
            try:
                staged = staged.to(self.device)
            except torch.OutOfMemoryError as error:
                raise AdapterCapacityError(f"the device has no {staged.num_bytes} bytes for the adapter") from error
        if self.group is not None:  # after this: where there is no room here, nothing has happened elsewhere
            self.group.place(staged)
        return staged

    def remove_adapter(self, adapter: DeviceAdapter) -> None:
        """Off the device; no step that is planned from now on has it."""
        if self.group is not None:
            self.group.remove(adapter)
        if isinstance(adapter, SlotAdapter):
            assert self.placer is not None
            self.placer.remove(adapter)

    @torch.inference_mode()
    def _plain_forward(self, rows: int) -> torch.Tensor:
        """Logits of one sequence, without cache and adapters."""
        tokens = torch.zeros(1, rows, dtype=torch.long, device=self.device)
        positions = torch.arange(rows, device=self.device)[None]
        return self.model(input_ids=tokens, position_ids=positions, use_cache=False).logits

    def _dry_run(self) -> torch.Tensor:
        """One small forward, and its logits: shows how modules are called."""
        self.state.dry_rows = self.config.num_attention_heads + 1  # tells rows from heads, see hooks
        logits = self._plain_forward(self.state.dry_rows)
        self.state.dry_rows = 0
        return logits

    def _attention_calls(self) -> list[AttentionCall]:
        """Of the dry run: raises BaseModelError unless every layer uses our attention."""
        calls, layers = self.state.calls, self.config.num_hidden_layers
        if sorted(calls) != list(range(layers)):
            raise BaseModelError(
                f"{type(self.model).__name__} runs attention in layers {sorted(calls)} of {layers} through the "
                "attention interface: not supported"
            )
        return [calls[i] for i in range(layers)]

    def _compile_elementwise(self) -> None:
        if self.program is not None:
            raise BaseModelError("compile 'elementwise' needs kernels 'torch': the C++ program has its own norms")
        compile_elementwise(self.model, self._plain_forward)
        self.kernel_names["elementwise"] = f"torch.compile/{self.device.type}"

    def _check_rows(self, allow: bool) -> None:
        found = quantised.rows_depend_on_others(self.model, self.quantised, self.dtype, self.device)
        if not found:
            return
        kind = type(self.model.get_submodule(found[0])).__name__
        what = (f"{len(found)} quantised projections such as {found[0]!r} ({kind}) compute a row differently beside "
                "other rows: a request's output depends on what shares its steps")
        if not allow:
            raise BaseModelError(f"{what}; allow_row_dependence serves it all the same")
        log.warning(what)

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
