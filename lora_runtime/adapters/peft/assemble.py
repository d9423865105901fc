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


@dataclass(frozen=True)
class Assembled:
    """Updates to apply, by module, and the names of the tensors without effect."""

    updates: Mapping[str, ModuleUpdate]
    modules: tuple[AppliedModule, ...]
    added_rows: int
    unused: tuple[str, ...]
    """Tensors without effect: the base's own values, which PEFT keeps beside the adapter's."""


class _Assembly:
    """Assembly of one adapter: takes tensor after tensor out of `left`; what remains is refused as
    not called for."""

    def __init__(
        self,
        spec: LoraSpec,
        targets: Targets,
        layout: Layout,
        tensors: Mapping[str, torch.Tensor],
        shapes: Shapes,
    ) -> None:
        self.spec, self.targets, self.layout, self.tensors, self.shapes = (
            spec,
            targets,
            layout,
            tensors,
            shapes,
        )
        self.left = {module: dict(parts) for module, parts in layout.parts.items()}
        self.weights: dict[str, torch.Tensor] = {}
        self.biases: dict[str, torch.Tensor] = {}
        self.unused: list[str] = []

    def run(self, max_added_rows: int) -> Assembled:
        count = added_rows(
            self.shapes.modules,
            self.layout.parts,
            self.tensors,
            self.targets.tokens,
            max_added_rows,
        )
        self.shapes = replace(self.shapes, added_rows=count)
        self._take_saved()
        self._take_base_weights()
        self._take_biases()
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

    def _take(self, module: str, *parts: Part) -> torch.Tensor | None:
        """Take the one tensor of these parts, if any. PEFT may write a saved module twice, if
        equal."""
        names = [self.left[module].pop(p) for p in parts if p in self.left.get(module, ())]
        for other in names[1:]:
            written_twice = parts[1] in (Part.SAVED_WEIGHT, Part.SAVED_BIAS)
            if not written_twice or not _same(self.tensors[names[0]], self.tensors[other]):
                raise AdapterError(
                    f"tensors {names[0]!r} and {other!r} are the same part of one module"
                )
        return self.tensors[names[0]] if names else None

    def _pass_over(self, module: str, part: Part) -> None:
        if part in self.left.get(module, ()):
            self.unused.append(self.left[module].pop(part))

    def _need(self, module: str, why: str, *parts: Part) -> torch.Tensor:
        tensor = self._take(module, *parts)
        if tensor is None:
            raise AdapterError(f"{why}: module {module!r} has no {parts[0]} in the file")
        return tensor

    def _take_saved(self) -> None:
        targets, modules = self.targets, self.shapes.modules
        for module in sorted(targets.saved):
            self.weights[module] = self._need(
                module, "modules_to_save", Part.WEIGHT, Part.SAVED_WEIGHT
            )
            if modules[module].has_bias:
                self.biases[module] = self._need(
                    module, "modules_to_save", Part.BIAS, Part.SAVED_BIAS
                )
        if head := targets.tied_saved:
            embedding = modules[head].tied_to
            if modules[head].has_bias:
                raise AdapterError(
                    f"module {head!r} has a bias, which ensure_weight_tying would drop"
                )
            weight = self._take(head, Part.WEIGHT, Part.SAVED_WEIGHT)
            if weight is not None and not _same(weight, self.weights[embedding]):
                raise AdapterError(
                    f"the weights of {head!r} and {embedding!r} differ, with ensure_weight_tying"
                )
            self.weights[head] = self.weights[embedding]

    def _take_base_weights(self) -> None:
        """Take the embeddings that PEFT saved from below the adapter: loading them writes into the
        base, through ties too."""
        replaced = self.targets.saved | {self.targets.tied_saved}
        for module in replaced & self.left.keys():
            self._pass_over(module, Part.BASE_BIAS)
            if not self._shares_weight(module):
                self._pass_over(module, Part.BASE_WEIGHT)
        for group in self._weight_groups():
            found: dict[str, torch.Tensor] = {}
            for module in group:
                parts = (
                    (Part.BASE_WEIGHT,) if module in replaced else (Part.WEIGHT, Part.BASE_WEIGHT)
                )
                if (weight := self._take(module, *parts)) is not None:
                    found[module] = weight
            if len(found) > 1 and not _same(*found.values()):
                raise AdapterError(
                    f"the saved weights of {' and '.join(map(repr, found))} differ, but they are tied"
                )
            for module in group if found else ():
                if module not in replaced:
                    self.weights[module] = next(iter(found.values()))
                    self._take_head_bias(module)

    def _shares_weight(self, module: str) -> bool:
        return any(module in group and len(group) > 1 for group in self._weight_groups())

    def _take_head_bias(self, module: str) -> None:
        if module not in self.targets.biases and self.shapes.modules[module].has_bias:
            bias = self._take(module, Part.BIAS, Part.BASE_BIAS)
            if bias is not None:
                self.biases[module] = bias

    def _weight_groups(self) -> list[list[str]]:
        """Groups of embeddings and lm_head, together where they share a weight."""
        groups: dict[str, list[str]] = {}
        for module, base in self.shapes.modules.items():
            if base.kind in (ModuleKind.EMBEDDING, ModuleKind.LM_HEAD):
                groups.setdefault(base.tied_to or module, []).append(module)
        return list(groups.values())

    def _take_biases(self) -> None:
        for module in sorted(self.targets.biases):
            self.biases[module] = self._need(
                module, f"bias = {self.spec.bias!r}", Part.BIAS, Part.BASE_BIAS
            )

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
            if self.shapes.added_rows > 0
            and base.kind in (ModuleKind.EMBEDDING, ModuleKind.LM_HEAD)
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
        if not count or base.kind not in (ModuleKind.EMBEDDING, ModuleKind.LM_HEAD):
            return 0
        inputs, outputs = self.shapes.maps(module)
        return inputs if base.kind is ModuleKind.EMBEDDING else outputs

    def _lora(self, module: str, update: ModuleUpdate) -> ModuleUpdate:
        embedding = self.shapes.modules[module].kind is ModuleKind.EMBEDDING
        a = self._need(module, "target_modules", Part.EMBEDDING_A if embedding else Part.A)
        b = self._need(module, "target_modules", Part.EMBEDDING_B if embedding else Part.B)
        name = self.layout.names[module]
        self.shapes.check_pair(module, a, b, self.spec.rank_of(name))
        return self._lora_extras(
            module, replace(update, a=a, b=b, scaling=self.spec.scaling_of(name))
        )

    def _lora_extras(self, module: str, update: ModuleUpdate) -> ModuleUpdate:
        outputs = (self.shapes.maps(module)[1],)
        if self.spec.lora_bias:
            bias = self._need(module, "lora_bias", Part.LORA_BIAS)
            self.shapes.check(module, Part.LORA_BIAS, bias, outputs)
            update = replace(update, lora_bias=bias)
        if self.spec.use_dora:
            magnitude = self._need(module, "use_dora", Part.MAGNITUDE)
            self.shapes.check(module, Part.MAGNITUDE, magnitude, outputs)
            update = replace(update, magnitude=magnitude)
        return update

    def _tokens(self, module: str, update: ModuleUpdate) -> ModuleUpdate:
        ids = self.targets.tokens[module]
        rows = self._need(module, "trainable_token_indices", Part.TOKENS)
        self._pass_over(module, Part.TOKENS_BEFORE)
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
            self._pass_over(head, Part.TOKENS_BEFORE)

    def _check_copy(self, module: str, part: Part, original: torch.Tensor) -> None:
        copy = self._take(module, part)
        if copy is not None and not _same(copy, original):
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
            # None of the file's: the base's, and the mean of them for each that the adapter adds.
            (
                "rows",
                update.rows or None
                if self.shapes.added_rows > 0 and update.weight is None
                else None,
            ),
        )
        return AppliedModule(
            module,
            update.rank,
            update.scaling if update.rank else 0.0,
            tuple(p for p, t in parts if t is not None),
            sum(self.tensors[t].nbytes for t in self.layout.parts.get(module, {}).values()),
        )


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors are equal; of those without values, whether they could be."""
    alike = a.dtype == b.dtype and a.shape == b.shape
    return alike and (a.is_meta or torch.equal(a, b))


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
