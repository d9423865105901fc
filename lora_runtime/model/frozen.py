"""The frozen model itself: what it is, how its layers are called, and the hooks through which steps
reach it."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ..config import BaseConfig
from ..errors import BaseModelError
from ..kernels import Kernels, select
from ..modules import BaseModule, ModuleKind
from . import attention, hooks, quantised
from .loading import check_architecture, eos_ids, untempered
from .modules import base_modules
from .own_forward import OwnForward, layer_paths, layers_without, own_forward
from .response_template import with_template
from .row_order import RowOrder
from .step_context import AttentionCall, StepContext

log = logging.getLogger(__name__)

_DRY_ROWS = 5

LinearHook = Callable[[str, nn.Module, StepContext], object]


class FrozenModel:
    """A causal language model of transformers', with loramux's attention and adapters' hooks.

    `modules`: those that an adapter may change, by the paths that PEFT names too; `kv_shapes` lists
    (kv_heads, key dim, value dim) per layer; `identity` is a SHA-256 over the files' headers.
    `quantised`: modules that are computed by their own forward alone, because their weight is
    packed.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        name: str,
        identity: str,
        config: BaseConfig,
        *,
        lora: bool = True,
        linear_hook: LinearHook | None = None,
    ) -> None:
        """Put attention and hooks in place.

        Raises BaseModelError for what cannot be served faithfully. `linear_hook`: in the place of
        hooks.LinearHook.
        """
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = with_template(tokenizer, config.response_template)
        self.name = name
        self.identity = identity
        with self._refusing():
            self._prepare(config, lora, linear_hook)

    def _prepare(self, config: BaseConfig, lora: bool, linear_hook: LinearHook | None) -> None:
        model = self.model
        self.device: torch.device = model.device
        self.dtype: torch.dtype = model.dtype
        self.config = model.config.get_text_config()
        self.max_context, self.context_note = check_architecture(model, self.config)
        """`context_note`: why the context is shorter than the base's own; empty where it is not."""
        self.quantised = quantised.quantised_modules(model)
        self.quantised_name = (
            f"{quantised.method_of(model.config)}/{self.device.type}" if self.quantised else ""
        )
        self.num_parameters = quantised.count_parameters(model, self.quantised)
        self.forward_lock = threading.Lock()
        """Lock of a forward: engines that share a base in one process take turns."""
        self.vocab_size = int(self.config.vocab_size)
        self.context = StepContext(select(self.device, "torch"))
        self.modules: dict[str, BaseModule] = base_modules(model, self.quantised)
        self.head_name = next(
            (n for n, m in self.modules.items() if m.kind is ModuleKind.LM_HEAD), ""
        )
        self.takes_adapters = lora
        self.max_added_tokens = config.max_added_tokens if lora else 0
        """Columns of the logits behind the vocabulary, for tokens that adapters add."""
        hooks.attach(model, self.modules, self.context, linear_hook)
        attention.register()
        attention.attach(model, self.context)
        untempered(model)
        own = model.config._attn_implementation
        if own == attention.IMPLEMENTATION:  # of a model that was served before
            own = "eager"
        model.set_attn_implementation(attention.IMPLEMENTATION)
        self.dry_run()
        self.attention_calls = self._attention_calls()
        self._learn_rows()
        self.own: OwnForward | None = self._own_forward(own)
        if hidden := self._hidden_windows(self.own):
            # Up to there rows see all others.
            self.context_note = (
                f"of the base's {self.max_context}, whose masks hide what lies behind "
                f"{min(hidden)} and attention is not told of it"
            )
            self.max_context = min(hidden)
            self.own = self._own_forward(own)
        self._check_rows(config.allow_row_dependence)
        self.has_sinks = any(call.sinks for call in self.attention_calls)
        self.kv_shapes = [(c.kv_heads, c.dim, c.dim_v) for c in self.attention_calls]
        each = sum(c.heads * (c.dim + c.dim_v) for c in self.attention_calls if c.window is None)
        self.attention_span = self.num_parameters / each if each else math.inf
        """Tokens of context whose attention takes about as many operations as the parameters do."""
        self.eos_token_ids = eos_ids(model, self.tokenizer)

    def use(self, kernels: Kernels) -> None:
        """Let steps run with these kernels.

        Raises BaseModelError if they cannot take the layers' head dims or sinks.
        """
        for _, dim, dim_v in self.kv_shapes:
            kernels.check_heads(dim, dim_v, self.dtype)
        if self.has_sinks and not kernels.takes_sinks:
            raise BaseModelError(
                f"{type(self.model).__name__} has attention sinks: use kernels torch"
            )
        self.context.kernels = kernels

    @torch.inference_mode()
    def plain_forward(self, rows: int) -> torch.Tensor:
        """Compute the logits of one sequence, without cache and adapters."""
        tokens = torch.zeros(1, rows, dtype=torch.long, device=self.device)
        positions = torch.arange(rows, device=self.device)[None]
        self.context.begin()
        return self.model(input_ids=tokens, position_ids=positions, use_cache=False).logits

    def dry_run(self) -> torch.Tensor:
        """Run one small forward and give its logits: it shows how modules are called."""
        self.context.dry_rows = _DRY_ROWS
        logits = self.plain_forward(self.context.dry_rows)
        self.context.dry_rows = 0
        return logits

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        """Say of which base it was that a forward failed. Raises BaseModelError."""
        try:
            yield
        except BaseModelError:
            raise
        except Exception as error:
            raise BaseModelError(
                f"{type(self.model).__name__} cannot be run as steps are: {type(error).__name__}: {error}"
            ) from error

    @torch.inference_mode()
    def _learn_rows(self) -> None:
        """Learn how modules are called, and which of them cannot take adapters."""
        order = RowOrder(self.model, self.modules, self.vocab_size, self._rows_alone)
        self.context.row_dims = order.dims
        self.modules = {
            name: replace(module, refusal=order.refusals.get(name, ""))
            for name, module in self.modules.items()
        }

    def _rows_alone(self, tokens: torch.Tensor, kept: torch.Tensor | None) -> torch.Tensor:
        """Compute logits of rows that depend on their own token alone."""
        wanted = {} if kept is None else {"logits_to_keep": kept.to(self.device)}
        ids = tokens[None].to(self.device)
        self.context.begin()
        self.context.alone = True
        try:
            return self.model(
                input_ids=ids, position_ids=torch.zeros_like(ids), use_cache=False, **wanted
            ).logits
        finally:
            self.context.alone = False

    def _own_forward(self, attention_of_its_own: str) -> OwnForward:
        """Run transformers' own forward: the steps of every backend are held to it."""
        self.model.set_attn_implementation(attention_of_its_own)
        try:
            return own_forward(
                self.model,
                self.config,
                self.attention_calls,
                self.max_context,
                self.num_parameters,
                loops=any(before for _, before in self.context.places),
            )
        finally:
            self.model.set_attn_implementation(attention.IMPLEMENTATION)

    def _hidden_windows(self, own: OwnForward) -> list[int]:
        """Windows within the context of which masks know, and no call of attention."""
        told = {call.window for call in self.attention_calls}
        return [window for window in own.windows - told if 0 < window < self.max_context]

    def _attention_calls(self) -> list[AttentionCall]:
        """Calls of the dry run, layer by layer. Raises BaseModelError if a layer lacks our
        attention."""
        calls = self.context.calls
        without = layers_without(self.model, layer_paths(calls.values()))
        if without or not calls:
            raise BaseModelError(
                f"{type(self.model).__name__} runs no attention through the attention interface in "
                f"{', '.join(without[:3]) or 'its layers'}: not supported"
            )
        self.context.places = {turn: place for place, turn in enumerate(sorted(calls))}
        return [calls[turn] for turn in self.context.places]

    def _check_rows(self, allow: bool) -> None:
        found = quantised.rows_depend_on_others(self.model, self.quantised, self.dtype, self.device)
        if not found:
            return
        kind = type(self.model.get_submodule(found[0])).__name__
        what = (
            f"{len(found)} quantised projections such as {found[0]!r} ({kind}) compute a row differently beside "
            "other rows: a request's output depends on what shares its steps"
        )
        if not allow:
            raise BaseModelError(f"{what}; allow_row_dependence serves it all the same")
        log.warning(what)
