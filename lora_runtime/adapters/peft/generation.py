"""An adapter's generation_config.json, of which the ends of a sequence count."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import AdapterError
from .config import MAX_CONFIG_BYTES
from .files import MissingFileError, check_values, decode_object, read_limited, shown

GENERATION_CONFIG = "generation_config.json"
_MAX_ENDS = 256
_PROVENANCE = {"_from_model_config", "transformers_version"}


@dataclass(frozen=True)
class Ends:
    """End-of-sequence ids of a generation config, the SHA-256 of its file, and notes."""

    ids: frozenset[int] = frozenset()
    digest: bytes = b""
    notes: tuple[str, ...] = ()


def read_ends(directory: Path, vocabulary_rows: int, roots: Sequence[Path] = ()) -> Ends:
    """Read an adapter's generation_config.json, if it has one. Raises AdapterError."""
    try:
        data = read_limited(directory / GENERATION_CONFIG, MAX_CONFIG_BYTES, roots)
    except MissingFileError:
        return Ends()
    check_values(data, GENERATION_CONFIG)
    fields = decode_object(data, GENERATION_CONFIG)
    found = fields.pop("eos_token_id", None)
    ids = found if isinstance(found, list) else [] if found is None else [found]
    if len(ids) > _MAX_ENDS or not all(type(one) is int for one in ids):
        raise AdapterError(
            f"{GENERATION_CONFIG}: eos_token_id is {shown(found)}, and no number or list of at most "
            f"{_MAX_ENDS} numbers"
        )
    notes = []
    if unknown := [one for one in ids if not 0 <= one < vocabulary_rows]:
        notes.append(
            f"{GENERATION_CONFIG}: eos_token_id {unknown[0]} has no row in the embeddings: no effect"
        )
    if other := sorted(fields.keys() - _PROVENANCE):
        notes.append(
            f"{GENERATION_CONFIG}: of its fields only eos_token_id is used, not {shown(other)}"
        )
    known = frozenset(one for one in ids if one not in unknown)
    return Ends(known, hashlib.sha256(data).digest(), tuple(notes))
