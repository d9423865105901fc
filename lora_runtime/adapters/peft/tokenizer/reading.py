"""The tokenizer that comes with an adapter, where it is another than the base's."""

from __future__ import annotations

import hashlib
import io
import logging
import tempfile
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ....errors import AdapterError
from ....foreign.process import WORKERS, WorkError, WorkLimits, WorkTimeoutError
from ..files import MissingFileError, check_size, open_regular
from .base import BaseTokenizer, BaseTokenizers
from .ends import TurnEnd, foreign_turn_end, turn_end
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
_UNUSED = "the tokenizer files are not used"
_AT_ONCE = threading.Semaphore(2)
"""Workers that read tokenizers: each may take much memory."""
_bases = BaseTokenizers(_FILES)
# Adapters of one base mostly come with the same files: looked at once, and shared.
_seen: weakref.WeakKeyDictionary[Any, dict[bytes, OwnTokenizer]] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class OwnTokenizer:
    """Tokenizer that differs from the base's, and the SHA-256 of its files; or neither."""

    tokenizer: Any = None
    digest: bytes = b""
    turn_end: TurnEnd = TurnEnd()  # noqa: RUF009 - it is frozen
    notes: tuple[str, ...] = ()


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
    """Read the adapter's tokenizer if it does anything else than that of `base`.

    A private copy of the bytes that were hashed is read, in a worker under `limits`. Raises
    AdapterError for files that make no tokenizer, and for one that does what cannot be made of the
    base's. Tokens at or over `vocabulary_rows` are noted.
    """
    files = _read(directory, roots)
    if not files:
        return OwnTokenizer()
    if base is None:
        return OwnTokenizer(notes=(f"{_UNUSED}: the base's is not known",))
    known = _bases.of(base)
    digests = {name: _digest(data) for name, data in files.items()}
    if all(known.digests.get(name) == digest for name, digest in digests.items()):
        return OwnTokenizer(notes=(f"{_UNUSED}: they are the base's",))
    digest = hashlib.sha256()
    for name, part in digests.items():
        digest.update(name.encode() + part)
    seen = _seen.setdefault(base, {})
    if (found := seen.get(digest.digest())) is None:
        own_files = [name for name in digests if known.digests.get(name) != digests[name]]
        found = _load(files, own_files, base, known, limits)
        while len(seen) >= _CACHED:
            seen.pop(next(iter(seen)), None)
        if found.turn_end.known:
            seen[digest.digest()] = found
    WORKERS.start()  # before the first chat comes
    if found.tokenizer is None:
        return found
    rows = tokens_without_rows(found.tokenizer, vocabulary_rows)
    return replace(found, digest=digest.digest(), notes=found.notes + rows)


def tokens_without_rows(own: Any, rows: int) -> tuple[str, ...]:
    """Give at most one note, on added tokens beyond the embeddings."""
    over = {i: token for i, token in own.added_tokens_decoder.items() if i >= rows}
    if not over:
        return ()
    index = min(over)
    return (
        f"{len(over)} tokens of its tokenizer, such as {str(over[index])!r} ({index}), have no row in "
        f"the embeddings, which have {rows}: prompts with one are refused",
    )


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
    limits: WorkLimits,
) -> OwnTokenizer:
    """Tokenizer, none if it does not differ from the base's."""
    if files.keys() == {_TEMPLATE}:
        try:
            own = with_template(base, b"".join(files[_TEMPLATE]).decode())
        except UnicodeDecodeError as error:
            raise AdapterError(f"the adapter's tokenizer cannot be loaded: {error}") from error
        return _found(own if own.chat_template != base.chat_template else None, base, limits)
    if not known.pipeline and (wrong := [name for name in own_files if name in _VOCABULARIES]):
        raise AdapterError(
            f"{wrong[0]} is not the base's, whose tokenizer runs in Python: not supported"
        )
    of_base = not any(name in own_files for name in (*_VOCABULARIES, "merges.txt"))
    facts = _facts(files, of_base and "tokenizer.json" not in files, known, limits)
    try:
        found = _found(make_own(base, known, facts), base, limits)
    except (AdapterError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # panics of the tokenizers library too
        raise AdapterError(
            f"the adapter's tokenizer cannot be loaded: {str(error)[:300]}"
        ) from error
    if without := facts.get("batches"):
        note = f"{' and '.join(without)} of the tokenizer's files have no effect"
        found = replace(found, notes=(*found.notes, note))
    if note := facts["response_note"]:
        found = replace(found, notes=(*found.notes, note))
    return found


def _found(own: Any, base: Any, limits: WorkLimits) -> OwnTokenizer:
    if own is None:
        return OwnTokenizer(notes=(f"{_UNUSED}: they do what the base's do",))
    is_own = own.chat_template != base.chat_template
    with _AT_ONCE:
        end = foreign_turn_end(own, limits) if is_own else turn_end(own)
    return OwnTokenizer(own, turn_end=end)


def _facts(
    files: Mapping[str, list[bytes]], with_base: bool, known: BaseTokenizer, limits: WorkLimits
) -> dict[str, Any]:
    """What a worker reads of the files, which have no pipeline but the base's if `with_base`.

    Raises AdapterError.
    """
    WORKERS.start()
    try:
        with _AT_ONCE, tempfile.TemporaryDirectory(prefix="loramux-tokenizer-") as folder:
            (Path(folder) / FILES).mkdir()
            for name, data in files.items():
                with open(Path(folder) / FILES / name, "wb", buffering=0) as file:
                    file.writelines(data)
            if known.pipeline:
                (Path(folder) / BASE).write_bytes(known.pipeline)
                if with_base:
                    (Path(folder) / FILES / "tokenizer.json").write_bytes(known.pipeline)
            with WORKERS.worker() as worker:
                return worker.ask(
                    READ,
                    folder,
                    known.name,
                    known.declared,
                    limits=limits,
                    max_bytes=_MAX_ANSWER_BYTES,
                )
    except WorkTimeoutError as error:
        log.warning("reading an adapter's tokenizer %s: its worker was ended", error)
        raise AdapterError(f"reading the adapter's tokenizer {error}") from error
    except (WorkError, OSError) as error:
        text = str(error)
        if not text.startswith("the adapter's tokenizer"):
            text = f"the adapter's tokenizer cannot be loaded: {text}"
        raise AdapterError(text) from error
