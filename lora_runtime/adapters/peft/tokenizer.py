"""The tokenizer that comes with an adapter, where it is another than the base's."""

from __future__ import annotations

import copy
import hashlib
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerFast

from ...errors import AdapterError
from .files import MissingFileError, read_limited, shown

MAX_TOKENIZER_BYTES = 64 << 20
_VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
_TEMPLATE = "chat_template.jinja"
_FILES = (
    *_VOCABULARIES,
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    _TEMPLATE,
)
_CACHED = 16
# Adapters of one base mostly come with the same files: looked at once, and shared.
_seen: weakref.WeakKeyDictionary[Any, dict[bytes, Any]] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class OwnTokenizer:
    """Tokenizer that differs from the base's, and the SHA-256 of its files; or neither."""

    tokenizer: Any = None
    digest: bytes = b""
    has_files: bool = False


def read_tokenizer(
    directory: Path, base: Any, vocabulary_rows: int, roots: Sequence[Path] = ()
) -> OwnTokenizer:
    """Read the adapter's tokenizer if its vocabulary, end of text or chat template is not that of
    `base`.

    A private copy of the bytes that were hashed is loaded. Raises AdapterError for files that make
    no tokenizer, for a vocabulary that does not hold the base's tokens under the same ids, and for
    ids at or over `vocabulary_rows`.
    """
    files = _read(directory, roots)
    if base is None or not any(name in files for name in (*_VOCABULARIES, _TEMPLATE)):
        return OwnTokenizer(has_files=bool(files))
    digest = hashlib.sha256()
    for name, data in files.items():
        digest.update(name.encode() + hashlib.sha256(data).digest())
    seen = _seen.setdefault(base, {})
    if digest.digest() not in seen:
        own = _load(files, base)
        _check_superset(own, base)
        while len(seen) >= _CACHED:
            seen.pop(next(iter(seen)), None)
        seen[digest.digest()] = own if _differs(own, base) else None
    own = seen.get(digest.digest())
    if own is None:
        return OwnTokenizer(has_files=True)
    if (last := max(own.get_vocab().values())) >= vocabulary_rows:
        raise AdapterError(
            f"the adapter's tokenizer has the id {last}, the embeddings have {vocabulary_rows} rows"
        )
    return OwnTokenizer(own, digest.digest(), has_files=True)


def _read(directory: Path, roots: Sequence[Path]) -> dict[str, bytes]:
    files = {}
    for name in _FILES:
        try:
            files[name] = read_limited(directory / name, MAX_TOKENIZER_BYTES, roots)
        except MissingFileError:
            continue
    return files


def _load(files: Mapping[str, bytes], base: Any) -> Any:
    try:
        if any(name in files for name in _VOCABULARIES):
            own = _from_files(files)
        else:
            own = copy.deepcopy(base)
            own.chat_template = files[_TEMPLATE].decode()
    except Exception as error:
        raise AdapterError(
            f"the adapter's tokenizer cannot be loaded: {shown(str(error), 300)}"
        ) from error
    if not own.chat_template:
        own.chat_template = base.chat_template
    return own


def _from_files(files: Mapping[str, bytes]) -> Any:
    with tempfile.TemporaryDirectory(prefix="loramux-tokenizer-") as folder:
        for name, data in files.items():
            (Path(folder) / name).write_bytes(data)
        kind = AutoTokenizer if "tokenizer_config.json" in files else PreTrainedTokenizerFast
        return kind.from_pretrained(folder, trust_remote_code=False, local_files_only=True)


def _check_superset(own: Any, base: Any) -> None:
    mine = own.get_vocab()
    for token, index in base.get_vocab().items():
        if mine.get(token) != index:
            raise AdapterError(
                f"the adapter's tokenizer has {shown(token)} as {mine.get(token)}, the base's as {index}: it must "
                "hold the base's vocabulary"
            )


def _differs(own: Any, base: Any) -> bool:
    return (
        len(own.get_vocab()) != len(base.get_vocab())
        or own.eos_token_id != base.eos_token_id
        or own.chat_template != base.chat_template
    )
