"""The tokenizer that comes with an adapter, where it is another than the base's."""

from __future__ import annotations

import hashlib
import io
import logging
import tempfile
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ....errors import AdapterError
from ....foreign.process import WORKERS, WorkError, WorkLimits, WorkTimeoutError
from ..files import MissingFileError, check_size, open_regular
from .base import BaseTokenizer, BaseTokenizers
from .own import make_own, with_template
from .parts import BASE, FILES, READ

log = logging.getLogger(__name__)
MAX_TOKENIZER_BYTES = 64 << 20
MAX_TEMPLATE_BYTES = 1 << 20
_PIECE_BYTES = 1 << 20
_MAX_ANSWER_BYTES = 16 << 20
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
_AT_ONCE = threading.Semaphore(2)
"""Workers that read tokenizers: each may take much memory."""
_bases = BaseTokenizers(_FILES)
# Adapters of one base mostly come with the same files: looked at once, and shared.
_seen: weakref.WeakKeyDictionary[Any, dict[bytes, tuple[Any, int]]] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class OwnTokenizer:
    """Tokenizer that differs from the base's, and the SHA-256 of its files; or neither."""

    tokenizer: Any = None
    digest: bytes = b""
    has_files: bool = False


def get_ready(base: Any) -> None:
    """Read what adapters' tokenizers are compared with, before anything is served: it may take
    half a second in which nothing else runs."""
    if base is not None:
        _bases.of(base)


def read_tokenizer(
    directory: Path,
    base: Any,
    vocabulary_rows: int,
    roots: Sequence[Path] = (),
    limits: WorkLimits = WorkLimits(),  # noqa: B008 - it is frozen
) -> OwnTokenizer:
    """Read the adapter's tokenizer if its vocabulary, end of text or chat template is not that of
    `base`.

    A private copy of the bytes that were hashed is read, in a worker under `limits`. Raises
    AdapterError for files that make no tokenizer, for a vocabulary that does not hold the base's
    tokens under the same ids, for text that would go another way than the base's, and for ids at or
    over `vocabulary_rows`.
    """
    files = _read(directory, roots)
    if base is None or not any(name in files for name in (*_VOCABULARIES, _TEMPLATE)):
        return OwnTokenizer(has_files=bool(files))
    known = _bases.of(base)
    digests = {name: _digest(data) for name, data in files.items()}
    if all(known.digests.get(name) == digest for name, digest in digests.items()):
        return OwnTokenizer(has_files=True)
    digest = hashlib.sha256()
    for name, part in digests.items():
        digest.update(name.encode() + part)
    seen = _seen.setdefault(base, {})
    if (found := seen.get(digest.digest())) is None:
        own_files = [name for name in digests if known.digests.get(name) != digests[name]]
        found = _load(files, own_files, base, known, vocabulary_rows, limits)
        while len(seen) >= _CACHED:
            seen.pop(next(iter(seen)), None)
        seen[digest.digest()] = found
    WORKERS.start()  # before the first chat comes
    own, last_id = found
    if own is None:
        return OwnTokenizer(has_files=True)
    _check_last(last_id, vocabulary_rows)
    return OwnTokenizer(own, digest.digest(), has_files=True)


def _read(directory: Path, roots: Sequence[Path]) -> dict[str, list[bytes]]:
    """Contents of the files that are there, in pieces: none is so large that making it stops
    other threads."""
    files = {}
    for name in _FILES:
        limit = MAX_TEMPLATE_BYTES if name == _TEMPLATE else MAX_TOKENIZER_BYTES
        path = directory / name
        try:
            with open_regular(path, roots) as (stream, size):
                check_size(path, size, limit)
                files[name] = list(_pieces(stream, size))
        except MissingFileError:
            continue
    return files


def _pieces(stream: io.FileIO, size: int) -> Iterator[bytes]:
    while size and (piece := stream.read(min(size, _PIECE_BYTES))):
        size -= len(piece)
        yield piece


def _digest(pieces: Sequence[bytes]) -> bytes:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.digest()


def _load(
    files: Mapping[str, list[bytes]],
    own_files: Sequence[str],
    base: Any,
    known: BaseTokenizer,
    vocabulary_rows: int,
    limits: WorkLimits,
) -> tuple[Any, int]:
    """Tokenizer, None if it does not differ from the base's, and its last id."""
    if not any(name in files for name in _VOCABULARIES):
        try:
            own = with_template(base, b"".join(files[_TEMPLATE]).decode())
        except UnicodeDecodeError as error:
            raise AdapterError(f"the adapter's tokenizer cannot be loaded: {error}") from error
        return (own if _differs(own, base) else None), 0
    if not known.pipeline and (wrong := [name for name in own_files if name in _VOCABULARIES]):
        raise AdapterError(
            f"{wrong[0]} is not the base's, whose tokenizer runs in Python: not supported"
        )
    facts = _facts(files, "tokenizer.json" not in own_files, known, limits)
    try:
        if not known.pipeline and facts["size"] != known.size:
            raise AdapterError(
                "the adapter's tokenizer adds tokens, and the base's runs in Python: not supported"
            )
        # Before any token is added here: as many as rows, each found in every text.
        _check_last(facts["last_id"], vocabulary_rows)
        own = make_own(base, facts)
        differs = facts["size"] != known.size or _differs(own, base)
        return (own if differs else None), facts["last_id"]
    except (AdapterError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # panics of the tokenizers library too
        raise AdapterError(
            f"the adapter's tokenizer cannot be loaded: {str(error)[:300]}"
        ) from error


def _check_last(last_id: int, vocabulary_rows: int) -> None:
    if last_id >= vocabulary_rows:
        raise AdapterError(
            f"the adapter's tokenizer has the id {last_id}, the embeddings have {vocabulary_rows} rows"
        )


def _facts(
    files: Mapping[str, list[bytes]], is_base_file: bool, known: BaseTokenizer, limits: WorkLimits
) -> dict[str, Any]:
    """What a worker reads of the files. Raises AdapterError."""
    WORKERS.start()
    try:
        with _AT_ONCE, tempfile.TemporaryDirectory(prefix="loramux-tokenizer-") as folder:
            (Path(folder) / FILES).mkdir()
            for name, data in files.items():
                with open(Path(folder) / FILES / name, "wb", buffering=0) as file:
                    file.writelines(data)
            if known.pipeline:
                (Path(folder) / BASE).write_bytes(known.pipeline)
            with WORKERS.worker() as worker:
                return worker.ask(
                    READ, folder, is_base_file, limits=limits, max_bytes=_MAX_ANSWER_BYTES
                )
    except WorkTimeoutError as error:
        log.warning("reading an adapter's tokenizer %s: its worker was ended", error)
        raise AdapterError(f"reading the adapter's tokenizer {error}") from error
    except (WorkError, OSError) as error:
        text = str(error)
        if not text.startswith("the adapter's tokenizer"):
            text = f"the adapter's tokenizer cannot be loaded: {text}"
        raise AdapterError(text) from error


def _differs(own: Any, base: Any) -> bool:
    return own.eos_token_id != base.eos_token_id or own.chat_template != base.chat_template
