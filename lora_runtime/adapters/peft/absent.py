"""What is said where an adapter's files are not in its directory: what is there instead, and what can
be done."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from .files import shown
from .shards_index import INDEX, WEIGHTS

CONFIG = "adapter_config.json"
_SHARD = re.compile(r"adapter_model-\d+-of-\d+\.safetensors", re.ASCII)
_PICKLED = re.compile(r"(?:adapter|pytorch)_model(?:-\d+-of-\d+)?\.bin", re.ASCII)
_OTHER_WEIGHTS = (".safetensors", ".gguf")
_MODEL = "config.json"
_MAX_LISTED = 4096
WITHOUT_INDEX = f"{INDEX} is missing, which says what is in each; put it there, or join the shards in one {WEIGHTS}"
"""What is said of shards that lie there alone."""


def is_shard(name: str) -> bool:
    """True for a name as shards of an adapter have."""
    return _SHARD.fullmatch(name) is not None


def without_config(directory: Path, roots: Sequence[Path] = ()) -> str:
    """Say that adapter_config.json is missing; where an adapter lies in a directory below, which."""
    missing = f"{CONFIG} is missing from {directory.name!r}"
    there = _listed(directory, roots)
    below = (entry for entry in there if entry.is_dir(follow_symlinks=False))
    found = [one.name for one in below if os.path.lexists(os.path.join(one.path, CONFIG))]
    if found:
        return (
            f"{missing}: there is one in {shown(sorted(found)[-1])} below it, which can be loaded"
        )
    if any(entry.name == _MODEL for entry in there):
        return f"{missing}: it has {_MODEL}, as whole models have, and only adapters can be loaded"
    return missing


def without_weights(directory: Path, roots: Sequence[Path] = ()) -> str:
    """Say what is missing, and what can be done about what is there."""
    there = sorted(entry.name for entry in _listed(directory, roots))
    missing = f"{WEIGHTS} is missing from {directory.name!r}"
    if shards := list(filter(is_shard, there)):
        return (
            f"{missing}: the weights are in shards ({shards[0]}), and {WITHOUT_INDEX}, with load_file "
            "and save_file of safetensors.torch"
        )
    if pickled := list(filter(_PICKLED.fullmatch, there)):
        return (
            f"{missing}: {pickled[0]} is pickled, and pickled weights are never read; load it with "
            "PEFT and save it again with save_pretrained, which writes safetensors"
        )
    if others := [name for name in there if name.endswith(_OTHER_WEIGHTS)]:
        return (
            f"{missing}: {shown(others[0])} is there, which is not the name of an adapter's weights as "
            "PEFT's save_pretrained writes them"
        )
    return f"{missing} (pickled weights are never read)"


def _listed(directory: Path, roots: Sequence[Path]) -> list[os.DirEntry[str]]:
    real = Path(os.path.realpath(directory))
    if roots and not any(real.is_relative_to(os.path.realpath(root)) for root in roots):
        return []
    try:
        with os.scandir(directory) as entries:
            return list(islice(entries, _MAX_LISTED))
    except OSError:
        return []
