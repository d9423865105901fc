"""Assembly of tensors into updates of modules: each is applied, checked, or the adapter refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from ...api.adapters import AppliedModule
from ...errors import AdapterError
from ...modules import ModuleKind
from .config import LoraSpec
from .keys import Layout, Part
from .rows import added_rows
from .shapes import Shapes
from .targets import Targets
from .update import ModuleUpdate
from .whole_tensors import WholeTensors, same


@dataclass(frozen=True)
class Assembled:
    """Updates to apply, by module, and the names of the tensors without effect."""

    updates: Mapping[str, ModuleUpdate]
    modules: tuple[AppliedModule, ...]
    added_rows: int
    unused: tuple[str, ...]
    """Tensors without effect: the base's own values, which PEFT keeps beside the adapter's."""


class _Assembly(WholeTensors):
    """Assembly of one adapter: what is left of its tensors in the end is refused."""

    def run(self, max_added_rows: int) -> Assembled:
        count = added_rows(
            self.shapes.modules,
            self.layout.parts,
            self.tensors,
            self.targets.tokens,
            max_added_rows,
        )
        self.shapes = replace(self.shapes, added_rows=count)
        self.take_saved()
        self.take_base_weights()
        self.take_biases()
        self._check_shapes()
        updates = {m: self._replaced(m) for m in self._changed_whole()}
        for module in sorted(self.targets.lora):
            updates[module] = self._lora(module, updates.get(module, self._replaced(module)))
        for module in sorted(self.targets.tokens):
            updates[module] = self._tokens(module, updates.get(module, self._replaced(module)))
        self._follow_ties(updates)
        self._check_left()
        modules = tuple(self._report(m, update) for m, update in sorted(updates.items()))
        return Assembled(updates, modules, self.shapes.added_rows, tuple(self.unused))

    def _check_shapes(self) -> None:
        if self.spec.invocation_tokens and self.shapes.added_rows > 0:
            raise AdapterError(
                "rows added to the vocabulary cannot be used with alora_invocation_tokens"
            )
        for module, weight in self.weights.items():
            self.shapes.check(module, "weight", weight, self.shapes.weight(module))
        for module, bias in self.biases.items():
            self.shapes.check(module, "bias", bias, (self.shapes.maps(module)[1],))

    def _changed_whole(self) -> set[str]:
        """Modules with a weight or bias from the file, or with rows that the base does not have."""
        grown = {
            m
            for m, base in self.shapes.modules.items()
            if self.shapes.added_rows > 0 and base.is_vocabulary
        }
        return self.weights.keys() | self.biases.keys() | grown

    def _replaced(self, module: str) -> ModuleUpdate:
        weight = self.weights.get(module)
        fixed = weight is not None and bool(self.spec.invocation_tokens)
        return ModuleUpdate(
            weight=weight,
            bias=self.biases.get(module),
            rows=self._rows(module),
            fixed_weight=fixed,
        )

    def _rows(self, module: str) -> int:
        """Rows of an embedding or lm_head where they are not as many as the base's, else 0."""
        base, count = self.shapes.modules[module], self.shapes.added_rows
        return base.rows + count if count and base.is_vocabulary else 0

    def _lora(self, module: str, update: ModuleUpdate) -> ModuleUpdate:
        embedding = self.shapes.modules[module].kind is ModuleKind.EMBEDDING
        a = self.need(module, "target_modules", Part.EMBEDDING_A if embedding else Part.A)
        b = self.need(module, "target_modules", Part.EMBEDDING_B if embedding else Part.B)
        name = self.layout.names[module]
        self.shapes.check_pair(module, a, b, self.spec.rank_of(name))
        return self._lora_extras(
            module, replace(update, a=a, b=b, scaling=self.spec.scaling_of(name))
        )

    def _lora_extras(self, module: str, update: ModuleUpdate) -> ModuleUpdate:
        outputs = (self.shapes.maps(module)[1],)
        if self.spec.lora_bias:
            bias = self.need(module, "lora_bias", Part.LORA_BIAS)
            self.shapes.check(module, Part.LORA_BIAS, bias, outputs)
            update = replace(update, lora_bias=bias)
        if self.spec.use_dora:
            magnitude = self.need(module, "use_dora", Part.MAGNITUDE)
            self.shapes.check(module, Part.MAGNITUDE, magnitude, outputs)
            update = replace(update, magnitude=magnitude)
        return update

    def _tokens(self, module: str, update: ModuleUpdate) -> ModuleUpdate:
        ids = self.targets.tokens[module]
        rows = self.need(module, "trainable_token_indices", Part.TOKENS)
        self.pass_over(module, Part.TOKENS_BEFORE)
        vocabulary, width = self.shapes.weight(module)
        if max(ids) >= vocabulary:
            raise AdapterError(
                f"trainable_token_indices: token {max(ids)} is outside the {vocabulary} of {module!r}"
            )
        if (
            self.shapes.modules[module].kind is ModuleKind.LM_HEAD
            and self.shapes.modules[module].has_bias
        ):
            raise AdapterError(
                f"module {module!r} has a bias, which trainable_token_indices would drop"
            )
        if rows.ndim != 2 or rows.shape[0] != len(ids):
            raise AdapterError(
                f"module {module!r}: {tuple(rows.shape)} rows for {len(ids)} trainable_token_indices"
            )
        self.shapes.check(module, Part.TOKENS, rows, (len(ids), width))
        return replace(update, token_ids=ids, token_rows=rows)

    def _follow_ties(self, updates: dict[str, ModuleUpdate]) -> None:
        """Give an lm_head that follows its embedding the embedding's tensors: PEFT computes with
        views of them."""
        targets, modules = self.targets, self.shapes.modules
        if head := targets.tied_lora:
            source = updates.get(modules[head].tied_to, ModuleUpdate())
            if source.a is None or source.b is None:
                raise AdapterError(
                    f"ensure_weight_tying: the embedding has no LoRA that {head!r} could share"
                )
            self._check_copy(head, Part.A, source.b.T)
            self._check_copy(head, Part.B, source.a.T)
            update = replace(
                updates.get(head, self._replaced(head)),
                a=source.b.T.contiguous(),
                b=source.a.T.contiguous(),
                scaling=self.spec.scaling_of(self.layout.names[head]),
            )
            updates[head] = self._lora_extras(head, update)
        if head := targets.tied_tokens:
            source = updates.get(modules[head].tied_to, ModuleUpdate())
            if modules[head].has_bias:
                raise AdapterError(
                    f"module {head!r} has a bias, which trainable_token_indices would drop"
                )
            assert source.token_rows is not None
            self._check_copy(head, Part.TOKENS, source.token_rows)
            updates[head] = replace(
                updates.get(head, self._replaced(head)),
                token_ids=source.token_ids,
                token_rows=source.token_rows,
            )
            self.pass_over(head, Part.TOKENS_BEFORE)

    def _check_copy(self, module: str, part: Part, original: torch.Tensor) -> None:
        copy = self.take(module, part)
        if copy is not None and not same(copy, original):
            raise AdapterError(
                f"the {part} of {module!r} differs from that of the embedding it is tied to"
            )

    def _check_left(self) -> None:
        for module in sorted(self.left):
            for part, tensor in self.left[module].items():
                raise AdapterError(
                    f"tensor {tensor!r} ({part} of {module!r}) is not what the config calls for"
                )

    def _report(self, module: str, update: ModuleUpdate) -> AppliedModule:
        lora = "rslora" if self.spec.use_rslora else "lora"
        parts = (
            (lora, update.a),
            ("dora", update.magnitude),
            ("lora_bias", update.lora_bias),
            ("bias", update.bias),
            ("weight", update.weight),
            ("tokens", update.token_rows),
        )
        # None of the file's: the base's, and the mean of them for each that the adapter adds.
        grown = self.shapes.added_rows > 0 and update.rows > 0 and update.weight is None
        return AppliedModule(
            module,
            update.rank,
            update.scaling if update.rank else 0.0,
            (*(p for p, t in parts if t is not None), *(("rows",) if grown else ())),
            sum(self.tensors[t].nbytes for t in self.layout.parts.get(module, {}).values()),
        )


def assemble(
    spec: LoraSpec,
    targets: Targets,
    layout: Layout,
    tensors: Mapping[str, torch.Tensor],
    shapes: Shapes,
    max_added_rows: int,
) -> Assembled:
    """Assemble the updates.

    Raises AdapterError and BaseMismatchError naming what is missing, left over, or of the wrong
    shape.
    """
    return _Assembly(spec, targets, layout, tensors, shapes).run(max_added_rows)
