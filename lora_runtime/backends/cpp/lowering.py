"""Lowering of transformers' modules to a program of C++ ops.

The architecture stays transformers': what a layer computes is read off its modules and off the
calls that it makes to the attention interface, every parameter must be accounted for, and the
program is held to transformers' own forward (see ../check.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ...kernels.cpu.build import NoKernelsError
from ...kernels.cpu.library import AttentionShape
from ...kernels.cpu.memory import Arena, give_back_freed
from ...kernels.cpu.program import LOGITS, Activation, LinearPart, NormWeights, Program
from ...kernels.cpu.weights import PackedLinear, pack_linear
from ...model.hooks import embedding_scale
from ...model.step_context import AttentionCall

LLAMA_LIKE = {"llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3"}
GPT2_LIKE = {"gpt2"}
_ONE_PLUS_WEIGHT = {"gemma2", "gemma3_text"}
_ACTIVATIONS = {
    "silu": Activation.SILU,
    "swish": Activation.SILU,
    "gelu_pytorch_tanh": Activation.GELU_TANH,
    "gelu_new": Activation.GELU_TANH,
}


@dataclass(frozen=True)
class _Buffers:
    """The row buffers that all layers share."""

    hidden: int
    normed: int
    qkv: int
    queries: int
    attended: int
    expanded: int
    activated: int
    update: int


class Lowering:
    """Lowering of one base to a program; frees each weight of transformers' once it is packed.

    `modules`: those that adapters may change, in the order of their tables. Logits get columns for
    `added` tokens. `packed` are the weights that transformers' model has lost, by module. Raises
    NoKernelsError for what the C++ ops cannot express; `freed` says whether that was before the
    first weight was freed.
    """

    def __init__(
        self,
        model: Any,
        config: Any,
        calls: list[AttentionCall],
        modules: Iterable[str],
        max_context: int,
        int8: bool,
        added: int,
    ) -> None:
        self.config = config
        self.kind = str(config.model_type)
        if self.kind not in LLAMA_LIKE | GPT2_LIKE:
            raise NoKernelsError(f"no C++ program for the architecture {self.kind!r}")
        if any(call.sinks for call in calls):
            raise NoKernelsError("its attention has sinks")
        if len(calls) != config.num_hidden_layers:
            raise NoKernelsError("a layer calls attention more than once")
        self.activation = _activation(config)
        if model.get_output_embeddings().weight.shape[0] != config.vocab_size:
            raise NoKernelsError("the lm_head's outputs are not the vocabulary")
        self.model, self.calls, self.int8, self.added = model, calls, int8, added
        self._names = {module: name for name, module in model.named_modules()}
        self._rows = {name: i for i, name in enumerate(modules)}
        self.packed: dict[str, PackedLinear] = {}
        self.dtype: torch.dtype = model.dtype
        self.hidden = int(config.hidden_size)
        self.program = Program(self.dtype)
        self.max_context = max_context
        self.freed = False
        """True once transformers' model has lost weights to the program."""
        self._arena = Arena()
        self._seen: set[int] = set()
        if self.dtype == torch.bfloat16 or int8:
            odd = [n for n, p in model.named_parameters() if p.ndim == 2 and p.shape[1] % 2]
            if odd or any(c.dim % 2 for c in calls):
                raise NoKernelsError(f"odd widths ({odd[:1] or 'head'}) in bfloat16 or int8")

    def run(self) -> Program:
        if self.kind in GPT2_LIKE:
            self._gpt2()
        else:
            self._llama_like()
        self.program.argmax(getattr(self.config, "final_logit_softcapping", None), self.added)
        if left := [n for n, p in self.model.named_parameters() if id(p) not in self._seen]:
            raise NoKernelsError(f"parameter {left[0]!r} has no place in the C++ program")
        return self.program

    # --- architectures --------------------------------------------------------------------------

    def _llama_like(self) -> None:
        body = self.model.model
        layers = list(body.layers)
        head = self._head()
        rotary = _Rotary(body.rotary_emb, self.config, self.max_context)
        inner = _inputs(layers[0].mlp.down_proj)
        buffers = self._buffers(inner, 2 * inner)
        embed = body.embed_tokens
        self._embed(embed, head, buffers.hidden, embedding_scale(embed))
        for i, layer in enumerate(layers):
            attention, mlp = layer.self_attn, layer.mlp
            sandwich = hasattr(layer, "pre_feedforward_layernorm")
            self._norm(layer.input_layernorm, buffers.hidden, buffers.normed)
            qkv = _parts(attention, "qkv_proj", "q_proj", "k_proj", "v_proj")
            self._linear("qkv", qkv, buffers.normed, buffers.qkv)
            self._attention(i, attention, buffers, *rotary.tables(i))
            self._project(
                "o",
                attention.o_proj,
                buffers.attended,
                buffers,
                layer.post_attention_layernorm if sandwich else None,
            )
            before_mlp = (
                layer.pre_feedforward_layernorm if sandwich else layer.post_attention_layernorm
            )
            self._norm(before_mlp, buffers.hidden, buffers.normed)
            gate_up = _parts(mlp, "gate_up_proj", "gate_proj", "up_proj")
            self._linear("gate_up", gate_up, buffers.normed, buffers.expanded)
            self.program.activate(
                self.activation, buffers.expanded, 0, inner, inner, buffers.activated
            )
            self._project(
                "down",
                mlp.down_proj,
                buffers.activated,
                buffers,
                layer.post_feedforward_layernorm if sandwich else None,
            )
            give_back_freed()
        self._finish(body.norm, head, buffers)

    def _gpt2(self) -> None:
        body = self.model.transformer
        if self.config.add_cross_attention or self.config.reorder_and_upcast_attn:
            raise NoKernelsError(
                "no C++ program for GPT-2 with cross attention or reordered attention"
            )
        inner = _inputs(body.h[0].mlp.c_proj)
        head, buffers = self._head(), self._buffers(inner, inner)
        self._embed(
            body.wte, head, buffers.hidden, 1.0, self._take(body.wpe.weight).float().contiguous()
        )
        for i, layer in enumerate(body.h):
            self._norm(layer.ln_1, buffers.hidden, buffers.normed)
            self._linear("qkv", [layer.attn.c_attn], buffers.normed, buffers.qkv)
            self._attention(i, layer.attn, buffers, None, None)
            self._project("o", layer.attn.c_proj, buffers.attended, buffers, None)
            self._norm(layer.ln_2, buffers.hidden, buffers.normed)
            self._linear("gate_up", [layer.mlp.c_fc], buffers.normed, buffers.expanded)
            self.program.activate(
                self.activation, buffers.expanded, 0, None, inner, buffers.activated
            )
            self._project("down", layer.mlp.c_proj, buffers.activated, buffers, None)
            give_back_freed()
        self._finish(body.ln_f, head, buffers)

    # --- their parts ----------------------------------------------------------------------------

    def _buffers(self, inner: int, expanded: int) -> _Buffers:
        """Make the row buffers. `inner`: width of what the down projection reads; `expanded`: of
        what the MLP's first linears write."""
        p, calls, hidden = self.program, self.calls, self.hidden
        return _Buffers(
            hidden=p.buffer(hidden, floats=True),
            normed=p.buffer(hidden),
            qkv=p.buffer(
                max(c.heads * c.dim + c.kv_heads * (c.dim + c.dim_v) for c in calls), floats=True
            ),
            queries=p.buffer(max(c.heads * c.dim for c in calls)),
            attended=p.buffer(max(c.heads * c.dim_v for c in calls)),
            expanded=p.buffer(expanded, floats=True),
            activated=p.buffer(inner),
            update=p.buffer(hidden, floats=True),
        )

    def _head(self) -> PackedLinear:
        return self._pack(self.model.get_output_embeddings())

    def _embed(
        self,
        embed: nn.Embedding,
        head: PackedLinear,
        out: int,
        scale: float,
        positions: torch.Tensor | None = None,
    ) -> None:
        tied = self.model.get_output_embeddings().weight is embed.weight
        rows = None if tied else self._take(embed.weight).contiguous()
        if tied:
            self.packed[self._names[embed]] = head
        self.program.embed(
            out,
            rows=rows,
            tied=head if tied else None,
            scale=scale,
            positions=positions,
            module=self._row(embed),
        )

    def _norm(self, module: Any, source: int, out: int, add: bool = False) -> None:
        self.program.norm(source, self.hidden, out, self._norm_weights(module), add=add)

    def _norm_weights(self, module: Any) -> NormWeights:
        weight = self._take(module.weight).float()
        if self.kind in _ONE_PLUS_WEIGHT:
            weight = 1.0 + weight
        layer_norm = isinstance(module, nn.LayerNorm)
        bias = (
            self._take(module.bias).float().contiguous()
            if layer_norm and module.bias is not None
            else None
        )
        eps = getattr(module, "variance_epsilon", None) or module.eps
        return NormWeights(weight.contiguous(), bias, float(eps), not layer_norm, self._row(module))

    def _linear(
        self, name: str, projections: list[Any], source: int, out: int, add: bool = False
    ) -> None:
        parts, column = [], 0
        for projection in projections:
            parts.append(LinearPart(self._pack(projection), self._row(projection), column))
            column += parts[-1].packed.n
        self.program.linear(name, source, out, parts, add=add)

    def _project(
        self, name: str, projection: Any, source: int, buffers: _Buffers, norm: Any
    ) -> None:
        """Project back into the residual stream, through the layer's own norm where it has one."""
        self._linear(
            name,
            [projection],
            source,
            buffers.hidden if norm is None else buffers.update,
            add=norm is None,
        )
        if norm is not None:
            self._norm(norm, buffers.update, buffers.hidden, add=True)

    def _attention(
        self,
        layer: int,
        module: Any,
        buffers: _Buffers,
        cosines: torch.Tensor | None,
        sines: torch.Tensor | None,
    ) -> None:
        c = self.calls[layer]
        shape = AttentionShape(
            c.heads, c.kv_heads, c.dim, c.dim_v, c.window or 0, c.scaling, c.softcap or 0.0
        )
        norms = None
        if hasattr(module, "q_norm"):
            norms = (self._norm_weights(module.q_norm), self._norm_weights(module.k_norm))
        self.program.attention(
            buffers.qkv, buffers.queries, buffers.attended, layer, shape, norms, cosines, sines
        )

    def _finish(self, norm: Any, head: PackedLinear, buffers: _Buffers) -> None:
        """Compute the logits of the rows that sample."""
        sampled = self.program.buffer(self.hidden, floats=True, sampled=True)
        normed = self.program.buffer(self.hidden, sampled=True)
        self.program.gather(buffers.hidden, sampled)
        self._norm(norm, sampled, normed)
        row = self._row(self.model.get_output_embeddings())
        self.program.linear("lm_head", normed, LOGITS, [LinearPart(head, row, 0)])

    # --- weights --------------------------------------------------------------------------------

    def _pack(self, module: Any) -> PackedLinear:
        """Pack a Linear or Conv1D and free the original: the base is never in memory twice."""
        weight = self._take(module.weight)
        bias = None if getattr(module, "bias", None) is None else self._take(module.bias)
        rows = weight if isinstance(module, nn.Linear) else weight.t()
        packed = pack_linear(self.program.library, rows, bias, self.int8, self._arena)
        self.packed[self._names[module]] = packed
        self.freed = True
        module.weight.data = torch.empty(0, dtype=self.dtype)
        return packed

    def _row(self, module: Any) -> int:
        """Row of a module in the adapters' tables, -1 if they do not change it."""
        return self._rows.get(self._names[module], -1)

    def _take(self, parameter: torch.Tensor) -> torch.Tensor:
        self._seen.add(id(parameter))
        return parameter.detach()


class _Rotary:
    """Tables (positions, rotary / 2) of cosines and sines from transformers' own rotary module."""

    def __init__(self, module: Any, config: Any, positions: int) -> None:
        self._module, self._positions = module, positions
        self._types = list(getattr(config, "layer_types", None) or ())
        frequencies = {name for name, _ in module.named_buffers() if name.endswith("_inv_freq")}
        self._per_type = bool(frequencies - {"original_inv_freq"})
        self._made: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def tables(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        kind = self._types[layer] if self._per_type else ""
        if kind not in self._made:
            self._made[kind] = self._make(kind)
        return self._made[kind]

    def _make(self, kind: str) -> tuple[torch.Tensor, torch.Tensor]:
        ids = torch.arange(self._positions)[None]
        like = torch.empty(0, dtype=torch.float32)  # the tables take its dtype
        cosines, sines = self._module(like, ids, kind) if kind else self._module(like, ids)
        half = cosines.shape[-1] // 2
        return cosines[0, :, :half].float().contiguous(), sines[0, :, :half].float().contiguous()


def _parts(module: Any, fused: str, *split: str) -> list[Any]:
    return (
        [getattr(module, fused)]
        if hasattr(module, fused)
        else [getattr(module, name) for name in split]
    )


def _inputs(linear: Any) -> int:
    return int(linear.weight.shape[1 if isinstance(linear, nn.Linear) else 0])


def _activation(config: Any) -> Activation:
    names = ("hidden_activation", "hidden_act", "activation_function")
    name = next((v for n in names if (v := getattr(config, n, None))), None)
    if name not in _ACTIVATIONS:
        raise NoKernelsError(f"no C++ activation {name!r}")
    return _ACTIVATIONS[name]
