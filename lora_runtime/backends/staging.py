"""Staging of an adapter's tensors for a forward: norms taken, gains folded in, dtype the base's."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.nn import functional as F

from ..adapters.peft.update import ModuleUpdate
from ..errors import AdapterError
from ..kernels.updates import ModuleDelta
from ..model.weights import BaseTensors, chunks
from ..modules import BaseModule, ModuleKind
from .grown_rows import GrownWeights
from .staging_checks import (
    check_shape,
    check_update,
    outputs_of,
    refuse,
)


class Stager:
    """Stager of adapters for one base.

    Raises AdapterError naming the module that cannot take its update.
    """

    def __init__(self, base: BaseTensors, max_added_tokens: int) -> None:
        self._base, self._max_added = base, max_added_tokens
        self._grown = GrownWeights(base)
        self._dense: dict[tuple[int, torch.Size], tuple[torch.Tensor, torch.Tensor]] = {}

    @torch.inference_mode()
    def stage(self, updates: Mapping[str, ModuleUpdate]) -> dict[str, ModuleDelta]:
        deltas: dict[str, ModuleDelta] = {}
        for name, update in updates.items():
            module = self._base.modules.get(name)
            if module is None:
                raise AdapterError(f"module {name!r} is none that an adapter can change")
            if module.refusal:
                raise AdapterError(
                    f"module {name!r} cannot take an adapter: the base {module.refusal}"
                )
            delta = (
                self._norm(name, module, update)
                if module.kind is ModuleKind.NORM
                else (self._weighted(name, module, update))
            )
            if delta.tensors():
                deltas[name] = delta
        added = {
            name: d.out - self._vocabulary(name)
            for name, d in deltas.items()
            if self._vocabulary(name)
        }
        if max(added.values(), default=0) > 0 and (len(added) < 2 or len(set(added.values())) > 1):
            raise AdapterError(f"tokens are not added to embedding and lm_head alike: {added}")
        return deltas

    def _norm(self, name: str, module: BaseModule, update: ModuleUpdate) -> ModuleDelta:
        refuse(name, update, "a norm", "a", "magnitude", "lora_bias", "token_rows")
        changed = {}
        for ours, theirs in (("dense", "weight"), ("bias", "bias")):
            tensor = getattr(update, theirs)
            if tensor is not None and (theirs == "weight" or module.has_bias):
                check_shape(name, theirs, tensor, (module.out_features,))
                changed[ours] = (tensor.float() - self._base.parameter(name, theirs)).contiguous()
            elif tensor is not None:
                raise AdapterError(f"module {name!r} has no bias to replace")
        return ModuleDelta(module.kind, module.out_features, **changed)

    def _weighted(self, name: str, module: BaseModule, update: ModuleUpdate) -> ModuleDelta:
        """Stage the update of a linear map or an embedding."""
        embedding = module.kind is ModuleKind.EMBEDDING
        check_update(name, module, update, self._base.quantised)
        weight = self._weight(name, module, update)
        out = outputs_of(module, update)
        # Most modules of most adapters are such.
        if weight is None and self._plain(update) and not embedding:
            return ModuleDelta(
                module.kind, out, self._to(update.a), self._to(update.b), update.scaling
            )
        a, b = update.a, update.b
        if a is not None and b is not None:
            tokens = a.shape[1] if embedding else b.shape[0]
            if tokens != out:
                raise AdapterError(f"module {name!r}: LoRA has {tokens} outputs of {out}")
        ids, rows = self._tokens(name, module, update) if weight is None else (None, None)
        gain = None
        if update.magnitude is not None:
            gain = update.magnitude.float() / self._norms(name, module, update, weight, ids, rows)
            if not gain.isfinite().all():
                raise AdapterError(
                    f"module {name!r}: a row of the updated weight is zero, DoRA cannot scale it"
                )
            b = gain[:, None] * b.float() if b is not None else None
            if weight is not None:
                weight = (gain if embedding else gain[:, None]) * weight.float()
            if rows is not None and ids is not None:
                rows = rows * (gain if embedding else gain[ids.long()][:, None])
        if embedding and a is not None:
            a = a.t()
        return ModuleDelta(
            module.kind,
            out,
            self._to(a),
            self._to(b),
            update.scaling,
            gain=None if gain is None or weight is not None else self._gain(module, gain),
            bias=self._bias(name, update, gain, out),
            dense=self._shared(weight),
            token_ids=ids,
            token_rows=rows,
        )

    @staticmethod
    def _plain(update: ModuleUpdate) -> bool:
        return all(
            t is None for t in (update.magnitude, update.lora_bias, update.bias, update.token_rows)
        )

    def _weight(self, name: str, module: BaseModule, update: ModuleUpdate) -> torch.Tensor | None:
        """The saved weight as (out, in) or (tokens, width), with its tokens' rows; None where it is
        the base's."""
        rows, columns = module.rows, module.columns
        if (added := outputs_of(module, update) - rows) > (
            0 if module.kind is ModuleKind.LINEAR else self._max_added
        ):
            raise AdapterError(
                f"module {name!r}: {added} added tokens, at most {self._max_added} are taken "
                "(max_added_tokens)"
            )
        if update.weight is not None:
            weight = update.weight.t() if module.transposed else update.weight
            if (
                weight.ndim != 2
                or weight.shape[1] != columns
                or weight.shape[0] < (update.rows or rows)
            ):
                raise AdapterError(
                    f"module {name!r}: weight {tuple(weight.shape)} for the base's {(rows, columns)}"
                )
            if added <= 0 and self._base.holds(name, weight):
                return None
            if update.fixed_weight:
                raise AdapterError(
                    f"the saved weight of {name!r} is not the base's: it cannot be used with "
                    "alora_invocation_tokens"
                )
        elif added > 0:
            weight = self._grown.weight(name, update.rows, rows, columns)
        else:
            return None
        if update.token_rows is not None:
            weight = weight.clone()
            weight[torch.tensor(update.token_ids)] = update.token_rows.to(weight.dtype)
        return weight

    def _tokens(
        self, name: str, module: BaseModule, update: ModuleUpdate
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Token ids, ascending, and what is added to their rows."""
        if update.token_rows is None:
            return None, None
        order = sorted(range(len(update.token_ids)), key=update.token_ids.__getitem__)
        ids = [update.token_ids[i] for i in order]
        if ids and ids[-1] >= outputs_of(module, update):
            raise AdapterError(f"module {name!r}: token {ids[-1]} is not in the base's vocabulary")
        base = torch.cat([self._base.rows(name, i, i + 1) for i in ids]).cpu()
        return torch.tensor(ids, dtype=torch.int32), (
            update.token_rows.float()[order] - base
        ).contiguous()

    def _norms(
        self,
        name: str,
        module: BaseModule,
        update: ModuleUpdate,
        weight: torch.Tensor | None,
        ids: torch.Tensor | None,
        rows: torch.Tensor | None,
    ) -> torch.Tensor:
        """Norms of the updated weight in float32: per output over its inputs, of an embedding per
        column over all tokens."""
        assert update.a is not None
        assert update.b is not None
        embedding = module.kind is ModuleKind.EMBEDDING
        total = outputs_of(module, update)
        if not embedding and weight is None and ids is None and total == module.rows:
            # Of nearly all.
            return self._base.updated_norms(name, update.a, update.b, update.scaling)
        squares = []
        for start, end in chunks(total, module.columns):
            own = self._base.rows(name, start, end) if weight is None else weight[start:end].float()
            left, right = (
                (update.a[:, start:end].t(), update.b.t())
                if embedding
                else (update.b[start:end], update.a)
            )
            updated = torch.addmm(own, left.to(own), right.to(own), alpha=update.scaling)
            if ids is not None and rows is not None:
                inside = (ids >= start) & (ids < end)
                updated[ids[inside].long() - start] += rows[inside].to(own.device)
            squares.append(updated.square_().sum(0 if embedding else 1))
        return (torch.stack(squares).sum(0) if embedding else torch.cat(squares)).sqrt().cpu()

    def _bias(
        self, name: str, update: ModuleUpdate, gain: torch.Tensor | None, out: int
    ) -> torch.Tensor | None:
        added = None
        module = self._base.modules[name]
        if update.bias is not None:
            base = self._base.parameter(name, "bias")
            added = update.bias.float() - F.pad(base, (0, out - len(base)))
        elif module.has_bias and (more := out - module.rows) > 0:
            base = self._base.parameter(name, "bias")
            added = torch.cat([torch.zeros_like(base), base.mean().expand(more)])
        if update.lora_bias is not None:
            scaled = update.scaling * update.lora_bias.float()
            scaled = scaled if gain is None else gain * scaled
            added = scaled if added is None else added + scaled
        return added

    def _gain(self, module: BaseModule, gain: torch.Tensor) -> torch.Tensor:
        """DoRA's gain - 1 for the base's own product: of all its outputs, even if the adapter has
        fewer."""
        missing = 0 if module.kind is ModuleKind.EMBEDDING else module.out_features - len(gain)
        return F.pad(gain - 1, (0, max(0, missing)))

    def _vocabulary(self, name: str) -> int:
        """Rows of an embedding or lm_head, 0 for other modules."""
        module = self._base.modules[name]
        return module.rows if module.is_vocabulary else 0

    def _to(self, tensor: torch.Tensor | None) -> torch.Tensor | None:
        """Convert to the base's dtype, contiguous. Raises AdapterError for a value that is too
        large for it."""
        if tensor is None:
            return None
        converted = tensor.to(self._base.dtype).contiguous()
        if tensor.dtype == torch.float32 != self._base.dtype and not converted.isfinite().all():
            raise AdapterError(
                f"a value of the adapter is too large for the base's {self._base.dtype}"
            )
        return converted

    def _shared(self, weight: torch.Tensor | None) -> torch.Tensor | None:
        """Convert as `_to`, with one tensor for one memory: a weight that embedding and lm_head
        share stays one."""
        if weight is None:
            return None
        key = weight.data_ptr(), weight.shape
        if key not in self._dense:
            converted = self._to(weight)
            assert converted is not None
            self._dense[key] = weight, converted  # the first keeps the address taken
        return self._dense[key][1]
