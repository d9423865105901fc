"""Changes of a saved adapter's tensors: their values, their names, and the files that they lie in."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

Tensors = dict[str, torch.Tensor]
WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."


def write_file(tensors: Tensors, path: Path, metadata: dict[str, str] | None = None) -> None:
    contiguous = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
    save_file(contiguous, path, metadata=metadata)


def _pick(tensors: Tensors, generator: torch.Generator) -> str:
    names = sorted(tensors)
    return names[int(torch.randint(len(names), (1,), generator=generator))]


def _one(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[..., Tensors]:
    """Change one tensor."""

    def changed(tensors: Tensors, generator: torch.Generator) -> Tensors:
        name = _pick(tensors, generator)
        return {**tensors, name: change(tensors[name])}

    return changed


def _every(change: Callable[[str, torch.Tensor], torch.Tensor]) -> Callable[..., Tensors]:
    return lambda tensors, _: {name: change(name, tensor) for name, tensor in tensors.items()}


def _mixed(tensors: Tensors, generator: torch.Generator) -> Tensors:
    kinds = (torch.float32, torch.float16, torch.bfloat16)
    return {
        name: tensor.to(kinds[int(torch.randint(3, (1,), generator=generator))])
        for name, tensor in tensors.items()
    }


def _dropped(tensors: Tensors, generator: torch.Generator) -> Tensors:
    name = _pick(tensors, generator)
    return {n: t for n, t in tensors.items() if n != name} or tensors


def _more(name: str, *shape: int) -> Callable[..., Tensors]:
    return lambda tensors, _: tensors | {name: torch.ones(shape)}


def _with_value(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def change(tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.clone()
        tensor.view(-1)[:1] = value
        return tensor

    return change


def _without_layer(tensors: Tensors, _: torch.Generator) -> Tensors:
    return {n: t for n, t in tensors.items() if ".0." not in n} or tensors


CHANGES: dict[str, Callable[[Tensors, torch.Generator], Tensors]] = {
    "float16": _every(lambda _, t: t.half()),
    "bfloat16": _every(lambda _, t: t.bfloat16()),
    "mixed": _mixed,
    "float64": _every(lambda _, t: t.double()),
    "one float64": _one(torch.Tensor.double),
    "one float8": _one(lambda t: t.to(torch.float8_e4m3fn)),
    "one of integers": _one(lambda t: t.int()),
    "one dropped": _dropped,
    "a layer dropped": _without_layer,
    "one transposed": _one(lambda t: t.T if t.ndim == 2 else t),
    "one longer": _one(lambda t: torch.cat([t, t[:1]])),
    "one flat": _one(lambda t: t.reshape(-1)),
    "NaN": _one(_with_value(float("nan"))),
    "infinite": _one(_with_value(float("inf"))),
    "B zero": _every(lambda name, t: torch.zeros_like(t) if "lora_B" in name else t),
    "one more layer": _more(f"{PREFIX}model.layers.9.self_attn.q_proj.lora_A.weight", 4, 32),
    "a stranger": _more("foo", 3),
    "frequencies": _more(f"{PREFIX}model.rotary_emb.inv_freq", 4),
    "a classifier": _more(f"{PREFIX}score.modules_to_save.weight", 2, 32),
    "a classifier's bias": _more(f"{PREFIX}classifier.bias", 2),
    "a base weight": _more(f"{PREFIX}model.layers.0.self_attn.k_proj.weight", 16, 32),
    "an lm_head": _more(f"{PREFIX}lm_head.weight", 112, 32),
    "a value head": _more("v_head.summary.weight", 1, 32),
}


def _inside(name: str) -> str:
    """With PEFT's name of the adapter left in, as model.state_dict() has it."""
    name = re.sub(r"(lora_[AB])\.(weight|bias)$", r"\1.default.\2", name)
    return re.sub(r"(lora_embedding_[AB]|lora_magnitude_vector)$", r"\1.default", name)


NAMES: dict[str, Callable[[str], str]] = {
    "plain": lambda name: name,
    "without PEFT's prefix": lambda name: name.removeprefix(PREFIX),
    "adapter's name inside": _inside,
    "DoRA's with weight": lambda name: re.sub(r"(lora_magnitude_vector)$", r"\1.weight", name),
    "of DDP": lambda name: f"module.{name}",
    "of DDP, inside": lambda name: name.replace(PREFIX, f"{PREFIX}module.", 1),
    "of torch.compile": lambda name: f"_orig_mod.{name}",
    "of torch.compile, inside": lambda name: name.replace(PREFIX, f"{PREFIX}_orig_mod.", 1),
    "of checkpointing": lambda name: name.replace(
        ".self_attn.", "._checkpoint_wrapped_module.self_attn.", 1
    ),
    "of FSDP": lambda name: f"_fsdp_wrapped_module.{name}",
    # Of no known tool.
    "half of the prefix": lambda name: name.removeprefix("base_model."),
    "prefix twice": lambda name: PREFIX + name,
    "of diffusers": lambda name: f"transformer.{name}",
    "upper case": lambda name: name.replace("lora_A", "lora_a"),
}
ODD_NAMES = ("half of the prefix", "prefix twice", "of diffusers", "upper case")


def _whole(tensors: Tensors, directory: Path) -> None:
    write_file(tensors, directory / WEIGHTS)


def _metadata(tensors: Tensors, directory: Path) -> None:
    write_file(tensors, directory / WEIGHTS, {"format": "pt", "trained_by": "somebody"})


def _sharded(
    count: int, lost: bool = False, wrong: bool = False
) -> Callable[[Tensors, Path], None]:
    def write_shards(tensors: Tensors, directory: Path) -> None:
        names = sorted(tensors)
        where: dict[str, str] = {}
        for i in range(count):
            file = f"adapter_model-{i + 1:05}-of-{count:05}.safetensors"
            part = {name: tensors[name] for name in names[i::count]}
            where |= dict.fromkeys(part, file)
            if part and not (lost and i == 0):
                write_file(part, directory / file)
        if wrong:
            where[names[0]] = where[names[-1]]
        size = sum(tensor.nbytes for tensor in tensors.values())
        index = {"metadata": {"total_size": size}, "weight_map": where}
        (directory / f"{WEIGHTS}.index.json").write_text(json.dumps(index))

    return write_shards


def _no_index(tensors: Tensors, directory: Path) -> None:
    write_file(tensors, directory / "adapter_model-00001-of-00001.safetensors")


def _pickled(tensors: Tensors, directory: Path) -> None:
    torch.save(tensors, directory / "adapter_model.bin")


SHARDS: dict[str, Callable[[Tensors, Path], None]] = {
    "whole": _whole,
    "with metadata": _metadata,
    "two shards": _sharded(2),
    "three shards": _sharded(3),
    "one shard": _sharded(1),
    "a shard lost": _sharded(2, lost=True),
    "an index that errs": _sharded(2, wrong=True),
    "no index": _no_index,
    "pickled": _pickled,
}
BROKEN_SHARDS = ("a shard lost", "an index that errs", "no index", "pickled")
