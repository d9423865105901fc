"""One architecture: made tiny, served from files, held to PEFT; and what came of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from lora_runtime import AdapterError, BaseModel, BaseModelError

from .findings import Finding, Outcome
from .parity import unequal
from .reference import Reference
from .tiny import VOCAB, UnbuildableError, fields_of, tiny_model

_LINEAR = {"linear"}
_ENDS = {"embedding", "lm_head"}
_LISTED = 3


def survey(kind: str) -> Finding:
    """Survey one architecture, by its `model_type`."""
    finding = _survey(kind)
    if finding.outcome is Outcome.REFUSED and fields_of(kind).get("is_decoder") is False:
        decoder = _survey(kind, is_decoder=True)
        if decoder.outcome is Outcome.WRONG:
            return decoder
        if decoder.outcome is Outcome.SERVED:
            note = f"with `is_decoder` in its configuration; without: {finding.reason}"
            return replace(decoder, notes=(note, *decoder.notes))
    return finding


def _survey(kind: str, **more: Any) -> Finding:
    with TemporaryDirectory(prefix="loramux-architecture-") as root:
        try:
            return _served(kind, tiny_model(kind, **more), more, Path(root))
        except UnbuildableError as error:
            return _unbuildable(kind, error, Path(root))
        except BaseModelError as error:
            return Finding(kind, Outcome.REFUSED, str(error).replace(root, ""))
        except Exception as error:
            return Finding(kind, Outcome.WRONG, f"{type(error).__name__}: {error}")


def _unbuildable(kind: str, error: UnbuildableError, files: Path) -> Finding:
    """Look at how a start ends, where transformers cannot build the model either."""
    finding = Finding(kind, Outcome.UNBUILDABLE, str(error))
    if error.config is None:
        return finding
    error.config.save_pretrained(files)
    save_file({"": torch.zeros(1)}, files / "model.safetensors", {"format": "pt"})
    try:
        BaseModel.load(files, device="cpu", dtype="float32")
    except BaseModelError:
        return finding
    except Exception as bare:
        return Finding(kind, Outcome.WRONG, f"the start ends with {type(bare).__name__}: {bare}")
    return Finding(kind, Outcome.WRONG, "it starts without weights")


def _served(kind: str, model: Any, more: dict[str, Any], root: Path) -> Finding:
    files = root / "base"
    model.save_pretrained(files)
    model.tiny_config.save_pretrained(files)
    _tokenizer().save_pretrained(files)
    base = BaseModel.load(files, device="cpu", dtype="float32")
    bases = {_backend(base): base}
    if "torch" not in bases:
        bases["torch"] = BaseModel.load(files, device="cpu", dtype="float32", kernels="torch")
    linear, ends = _takers(base, _LINEAR), _takers(base, _ENDS)
    notes = _refusals(base)
    while True:
        try:
            problem = _compared(bases, model, (linear, linear + ends), root)
            break
        except AdapterError as error:  # as with a head that computes more than a product
            if not ends:
                raise
            notes = (*notes, f"{_listed(ends[-1:])}: {error}")
            model, ends = tiny_model(kind, **more), ends[:-1]
    if problem:
        return Finding(kind, Outcome.WRONG, problem)
    return Finding(kind, Outcome.SERVED, "", tuple(bases), _leaves(linear + ends), notes)


def _compared(
    bases: Mapping[str, BaseModel], model: Any, targets: tuple[list[str], list[str]], root: Path
) -> str:
    """Compare answers with PEFT's by backend, with LoRA on the attention and on all that takes it.

    Gives what differs, "" for nothing. Raises AdapterError for an adapter that is refused.
    """
    narrow, broad = targets
    attention = [name for name in narrow if "att" in name] or narrow
    adapters: dict[str, dict[str, Any]] = {
        "narrow": {"r": 4, "lora_alpha": 6, "target_modules": attention},
        "broad": {"r": 3, "lora_alpha": 4, "use_rslora": True, "target_modules": broad},
    }
    reference = Reference(model, adapters, root)
    for backend, base in bases.items():
        if problem := unequal(base, {name: root / name for name in adapters}, reference):
            return f"{backend}: {problem}"
    return ""


def _backend(base: BaseModel) -> str:
    return "C++" if "step" in base.kernel_names else "torch"


def _takers(base: BaseModel, kinds: set[str]) -> list[str]:
    return [n for n, m in base.modules.items() if m.kind in kinds and not m.refusal]


def _refusals(base: BaseModel) -> tuple[str, ...]:
    by_reason: dict[str, list[str]] = {}
    for name, module in base.modules.items():
        if module.refusal and module.kind in _LINEAR | _ENDS:
            by_reason.setdefault(re.sub(r" \(.*\)", "", module.refusal), []).append(name)
    return tuple(f"{_listed(names)}: {reason}" for reason, names in by_reason.items())


def _leaves(names: list[str]) -> tuple[str, ...]:
    """Last parts of names, each once, in the order of the layers."""
    return tuple(dict.fromkeys(re.findall(r"[^.]+(?:\.\d+)?$", name)[0] for name in names))


def _listed(names: list[str]) -> str:
    """Names of modules without their layers', each once, the first of many."""
    short = [f"`{'.'.join(name.split('.')[-2:])}`" for name in names]
    first, *others = dict.fromkeys(short)
    if len(others) > _LISTED:
        return f"{first} and {len(names) - 1} more"
    return ", ".join([first, *others])


def _tokenizer() -> PreTrainedTokenizerFast:
    words = {f"t{i}": i for i in range(VOCAB - 2)} | {"<s>": VOCAB - 2, "</s>": VOCAB - 1}
    raw = Tokenizer(models.WordLevel(words, unk_token="t0"))
    return PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>")
