"""Modules of the base that a configuration calls for, by PEFT's rules, and what of each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ...errors import AdapterError, BaseMismatchError
from ...modules import BaseModule, ModuleKind
from .config import LoraSpec, path_ends
from .files import listed, shown

_EMBEDDING_NAMES = {"embed_tokens", "lm_head"}  # PEFT's, for which it ties weights
_LORA_KINDS = {ModuleKind.LINEAR, ModuleKind.LM_HEAD, ModuleKind.EMBEDDING}
_TOKEN_KINDS = {ModuleKind.LM_HEAD, ModuleKind.EMBEDDING}
_NO_TARGETS = "dummy-target-modules"  # PEFT's, for adapters without LoRA on any module


@dataclass(frozen=True)
class Targets:
    """Paths in the base, by what the adapter must hold for them.

    The `tied_` ones name an lm_head that follows its embedding: its tensors may be in the file, and
    must then agree with the embedding's.
    """

    lora: frozenset[str]
    saved: frozenset[str]
    """Modules replaced whole."""
    tokens: Mapping[str, tuple[int, ...]]
    """Token ids of the replaced rows, by module."""
    biases: frozenset[str]
    tied_lora: str = ""
    tied_saved: str = ""
    tied_tokens: str = ""
    notes: tuple[str, ...] = ()
    """Notes on what the config names and the base lacks."""

    @property
    def all_lora(self) -> frozenset[str]:
        """Modules with LoRA, one that is tied to its embedding included."""
        return self.lora | {self.tied_lora} - {""}


class _Resolver:
    def __init__(
        self, spec: LoraSpec, modules: Mapping[str, BaseModule], names: Mapping[str, str]
    ) -> None:
        self.spec, self.modules, self.names = spec, modules, names
        self.embedding = next((m for m in names if modules[m].kind is ModuleKind.EMBEDDING), "")
        # A model that was trained without its head had nothing to tie.
        heads = (m for m in names if modules[m].kind is ModuleKind.LM_HEAD and modules[m].tied_to)
        self.tied_head = next(heads, "")
        self.excluded: set[str] = set()

    def resolve(self) -> Targets:
        tied_saved, tied_lora = self._tie()
        saved = self._saved() - {tied_saved}
        lora = frozenset(m for m in self.names if m != tied_lora and self._is_target(m))
        self._check_lora(lora, tied_lora)
        tokens = self._tokens()
        tied_tokens = self._tied_tokens(tokens)
        tokens.pop(tied_tokens, None)
        targets = Targets(
            lora,
            saved,
            tokens,
            self._biases(lora | {tied_lora} - {""}, saved),
            tied_lora,
            tied_saved,
            tied_tokens,
            tuple(self._unmatched(lora, saved | {tied_saved} - {""})),
        )
        self._check_overlaps(targets)
        return targets

    def _tie(self) -> tuple[str, str]:
        """Apply ensure_weight_tying as PEFT does: the rules name the embedding, the lm_head
        follows."""
        spec, head = self.spec, self.tied_head
        if not spec.ensure_weight_tying or not head:
            return "", ""
        head_name, embedding_name = self.names[head], self.names[self.embedding]
        if any(n.rpartition(".")[2] in _EMBEDDING_NAMES for n in spec.modules_to_save):
            kept = self._without_first(spec.modules_to_save, head_name)
            self.spec = replace(spec, modules_to_save=(*kept, embedding_name))
            return head, ""
        rule = spec.target_modules
        if isinstance(rule, str):
            if any(spec.matches("target_modules", rule, name) for name in _EMBEDDING_NAMES):
                literal = embedding_name.replace(".", r"\.")
                self.spec = replace(spec, target_modules=rf"(?:{rule}|^{literal}$)")
                return "", head
        elif any(n.rpartition(".")[2] in _EMBEDDING_NAMES for n in rule):
            kept = self._without_first(tuple(sorted(rule)), head_name)
            self.spec = replace(spec, target_modules=frozenset((*kept, embedding_name)))
            return "", head
        return "", ""

    def _without_first(self, rules: tuple[str, ...], name: str) -> tuple[str, ...]:
        found = next((rule for rule in rules if self._is_within(rule, name)), None)
        return tuple(rule for rule in rules if rule != found)

    def _is_within(self, rule: str, name: str) -> bool:
        return (
            self.spec.patterns.start("modules_to_save", rf"(^|.*\.){rule}($|\..*)", name)
            is not None
        )

    def _is_target(self, module: str) -> bool:
        spec, name = self.spec, self.names[module]
        if spec.matches("exclude_modules", spec.exclude_modules, name):
            self.excluded.add(module)
            return False
        if any(self._is_within(rule, name) for rule in spec.modules_to_save):
            return False
        rule = spec.target_modules
        if isinstance(rule, str):
            if rule.lower() == "all-linear":
                return self.modules[module].kind is ModuleKind.LINEAR
            return spec.matches("target_modules", rule, name)
        if name in rule or not spec.layers_to_transform:
            return spec.matches("target_modules", rule, name)
        return (
            spec.matches("target_modules", rule, name)
            and self._layer_of(name) in spec.layers_to_transform
        )

    def _layer_of(self, name: str) -> int | None:
        spec = self.spec
        patterns = [rf"(?:^|.*?\.){p}\.(?P<idx>\d+)\." for p in spec.layers_pattern] or [
            r".*?\.[^.]*\.(?P<idx>\d+)\."
        ]
        matches = (spec.patterns.start("layers_pattern", p, name) for p in patterns)
        found = next((m for m in matches if m), None)
        return int(found["idx"]) if found else None

    def _saved(self) -> frozenset[str]:
        """Modules to save: as in PEFT, each whose path ends with the name, and all inside it."""
        ends = self.spec.modules_to_save
        return frozenset(
            m for m, name in self.names.items() if any(p.endswith(ends) for p in _paths_to(name))
        )

    def _tokens(self) -> dict[str, tuple[int, ...]]:
        indices = self.spec.token_indices
        if indices is None:
            return {}
        if isinstance(indices, tuple):
            if not self.embedding:
                raise AdapterError(
                    "trainable_token_indices: the base has no embeddings that can be changed"
                )
            return {self.embedding: indices}
        found: dict[str, tuple[int, ...]] = {}
        for end, tokens in indices.items():
            modules = [m for m, name in self.names.items() if name.endswith(end)]
            if not modules:
                raise BaseMismatchError(
                    f"trainable_token_indices of {end!r}: no such module in the base model"
                )
            for module in modules:
                if module in found or self.modules[module].kind not in _TOKEN_KINDS:
                    raise AdapterError(
                        f"trainable_token_indices of {end!r} cannot be applied to module {module!r}"
                    )
                found[module] = tokens
        return found

    def _tied_tokens(self, tokens: Mapping[str, tuple[int, ...]]) -> str:
        """Name of the lm_head whose rows follow the embedding's: PEFT ties them unless the config
        gives it rows of its own."""
        head = self.tied_head
        if not head or self.embedding not in tokens:
            return ""
        if tokens.get(head, tokens[self.embedding]) != tokens[self.embedding]:
            if self.spec.ensure_weight_tying:
                raise AdapterError(
                    "trainable_token_indices differ for tied modules, with ensure_weight_tying"
                )
            return ""
        return head

    def _biases(self, lora: frozenset[str] | set[str], saved: frozenset[str]) -> frozenset[str]:
        if self.spec.bias == "none":
            return frozenset()
        chosen = self.names if self.spec.bias == "all" else lora
        return frozenset(m for m in chosen if self.modules[m].has_bias and m not in saved)

    def _unmatched(self, lora: frozenset[str], saved: frozenset[str]) -> Iterator[str]:
        """Notes on names that stand for nothing here. As in PEFT they are no error: what they would
        have trained has no tensors in the file, or there is no place for these."""
        spec, names = self.spec, {self.names[m] for m in lora}
        if not isinstance(spec.target_modules, str):
            ends = {end for name in names for end in path_ends(name)}
            if missing := sorted(spec.target_modules - ends):
                yield f"target_modules: no module is trained for {listed(missing)}"
        if spec.layers_to_transform:
            layers = {self._layer_of(name) for name in names}
            if missing_layers := [n for n in spec.layers_to_transform if n not in layers]:
                yield f"layers_to_transform: no module is trained in {listed(missing_layers)}"
        if spec.exclude_modules and not self.excluded:
            yield "exclude_modules: no module is excluded"
        paths = {path for m in saved for path in _paths_to(self.names[m])}
        unsaved = [e for e in spec.modules_to_save if not any(p.endswith(e) for p in paths)]
        if unsaved:
            yield f"modules_to_save: the base has no module {listed(unsaved)} that can be changed"

    def _check_lora(self, lora: frozenset[str], tied: str) -> None:
        if not lora and not tied and self.spec.target_modules != _NO_TARGETS:
            raise self._nothing_matched()
        for module in sorted(lora):
            kind = self.modules[module].kind
            if kind not in _LORA_KINDS:
                raise AdapterError(
                    f"target_modules covers {module!r}: LoRA on a {kind} is not supported"
                )
            if kind is ModuleKind.EMBEDDING and (
                self.spec.lora_bias or self.spec.invocation_tokens
            ):
                what = "lora_bias" if self.spec.lora_bias else "alora_invocation_tokens"
                raise AdapterError(
                    f"target_modules covers the embedding {module!r}: not with {what!r}"
                )

    def _nothing_matched(self) -> BaseMismatchError:
        """The error for a config that puts LoRA nowhere, naming all of it that chooses modules."""
        narrowing = ("exclude_modules", "layers_to_transform", "layers_pattern", "modules_to_save")
        more = [f"{name} = {_values(v)}" for name in narrowing if (v := getattr(self.spec, name))]
        beside = f" (with {', '.join(more)})" if more else ""
        example = next((n for m, n in self.names.items() if self._can_have_lora(m)), "")
        return BaseMismatchError(
            f"config field 'target_modules' = {_values(self.spec.target_modules)} matches no module "
            f"of the base{beside}; they have names such as {example!r}"
        )

    def _can_have_lora(self, module: str) -> bool:
        return self.modules[module].kind is ModuleKind.LINEAR

    def _check_overlaps(self, targets: Targets) -> None:
        tokens = targets.tokens.keys()
        lora = targets.lora | {targets.tied_lora} - {""}
        saved = targets.saved | {targets.tied_saved} - {""}
        for what, both in (
            ("target_modules and modules_to_save", lora & saved),
            ("target_modules and trainable_token_indices", lora & tokens),
            (
                "modules_to_save and trainable_token_indices",
                saved & (tokens | {targets.tied_tokens}),
            ),
        ):
            for module in sorted(both):
                raise AdapterError(f"module {module!r} is covered by {what}: not supported")


def _values(rule: str | Iterable[Any]) -> str:
    return shown(rule) if isinstance(rule, str) else f"[{listed(sorted(rule))}]"


def _paths_to(name: str) -> list[str]:
    """Paths down to a module: a.b.c → a, a.b, a.b.c."""
    pieces = name.split(".")
    return [".".join(pieces[: i + 1]) for i in range(len(pieces))]


def resolve(spec: LoraSpec, modules: Mapping[str, BaseModule], names: Mapping[str, str]) -> Targets:
    """Apply the config's rules to the base's `modules`, by their `names` in the model that was
    trained.

    Raises AdapterError for what cannot be applied, BaseMismatchError for names that the base lacks.
    """
    return _Resolver(spec, modules, names).resolve()
