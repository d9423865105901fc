"""Reading of a tokenizer's files inside a worker: what of it is not the base's own."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ....errors import AdapterError
from ....foreign.answers import check_template
from ....foreign.worker import RefusedError
from ..files import decode_object, shown
from .behaviour import (
    added_of,
    around,
    backend_of,
    cleans_up,
    methods_of,
    settings_of,
    try_against,
)
from .pipeline import PARTS, build, check_parts, differ, token
from .vocabulary import check_model, ids_of

READ = f"{__name__}:read"
BASE = "base.json"
"""The base's pipeline, in the folder beside the adapter's files, in tokenizers' own format."""
FILES = "files"
"""Folder of the adapter's files."""
MAX_MORE_ADDED = 1024
"""Added tokens beyond the number that the base has: each is looked for in every text."""
MAX_TOKEN_CHARS = 256
"""Characters of an added token that the base does not have: it may be written at every step."""
_MAX_MORE_CHARS = 1 << 15
"""Characters of all of these: to search texts for them is prepared where the engine runs."""
_MAX_NAMES = 64
_MAX_CHARS = 1 << 20
_MAX_RESPONSE_CHARS = 64 << 10
_CONFIG = "tokenizer_config.json"


def read(folder: str, base_class: str, declared: str) -> dict[str, Any]:
    """What an adapter's tokenizer does, in small, and of the base's whatever is the same by name.

    `base_class`: transformers' class that the base's has been read by; `declared`: the one that the
    base's files name. Raises RefusedError for files that make no tokenizer, or one that cannot be
    made of the base's.
    """
    path = Path(folder)
    try:
        _check_json(path / FILES)
        own = _load(path / FILES, base_class, declared)
        base = json.loads((path / BASE).read_bytes()) if (path / BASE).exists() else None
        answer = _facts(own)
        if base is not None:
            answer |= _pipeline(own, base)
        else:
            answer["settings"] = settings_of(own)
    except AdapterError as error:
        raise RefusedError(str(error)) from error
    return answer


def _check_json(folder: Path) -> None:
    """Check that JSON files are objects without twins, in UTF-8 and of a depth that can be read."""
    for path in sorted(folder.glob("*.json")):
        try:
            decode_object(path.read_bytes(), path.name)
        except AdapterError as error:
            raise AdapterError(f"the adapter's tokenizer cannot be loaded: {error}") from error


def _load(folder: Path, base_class: str, declared: str) -> Any:
    import transformers

    kind: Any = transformers.AutoTokenizer
    config = folder / _CONFIG
    # Beside the base's files there is its kind of model, by which transformers chooses, too.
    as_base = declared_class(config.read_bytes()) == declared if config.exists() else True
    if as_base:
        kind = getattr(transformers, base_class, transformers.PreTrainedTokenizerFast)
    if (folder / "tokenizer.model").exists() and not (folder / "tokenizer.json").exists():
        _need("sentencepiece")
    try:
        own = kind.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except BaseException as error:  # panics of its library too
        raise AdapterError(
            f"the adapter's tokenizer cannot be loaded: {shown(str(error), 300)}"
        ) from error
    return own


def _need(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise AdapterError(
            f"the adapter's tokenizer cannot be loaded: tokenizer.model alone needs the package "
            f"{package!r}, which is not installed; or save it with its tokenizer.json"
        )


def declared_class(config: bytes) -> str:
    """Class that a tokenizer_config.json names, "" for none."""
    return str(json.loads(config).get("tokenizer_class") or "").removesuffix("Fast")


def _facts(own: Any) -> dict[str, Any]:
    """Facts that any tokenizer has: named tokens, chat template, number of tokens."""
    special = own.special_tokens_map
    template = own.chat_template
    if len(special) > _MAX_NAMES or len(json.dumps([special, template])) > _MAX_CHARS:
        raise AdapterError("the adapter's tokenizer has a chat template of more than 1 MiB")
    response, note = _response_template(own)
    return {
        "special": special,
        "template": template,
        "response_template": response,
        "response_note": note,
        "split_special": bool(own.split_special_tokens),
        "size": len(own),
        "methods": methods_of(own),
        "cleans_up": cleans_up(own),
    }


def _response_template(own: Any) -> tuple[dict[str, Any] | None, str]:
    """Response template, and a note on one that cannot be used."""
    template = getattr(own, "response_template", None)
    if template is None:
        return None, ""
    try:
        if len(json.dumps(template)) > _MAX_RESPONSE_CHARS:
            raise RefusedError(f"has over {_MAX_RESPONSE_CHARS} characters")
        check_template(template)
    except RefusedError as error:
        return None, f"the response template of its tokenizer is not used: {shown(str(error), 300)}"
    return template, ""


def _pipeline(own: Any, base: dict[str, Any]) -> dict[str, Any]:
    """Added tokens, what is put around a text, and the parts that are not the base's."""
    backend = backend_of(own)
    if backend is None:
        raise AdapterError(
            f"the adapter's tokenizer is a {type(own).__name__}, which runs in Python: not supported"
        )
    mine = json.loads(backend.to_str())
    check_model(backend, mine, base, bool(own.split_special_tokens))
    parts = {part: mine[part] for part in PARTS if differ(part, mine[part], base[part])}
    check_parts(parts, base)
    added = added_of(backend)
    check_counts(added, [one["content"] for one in base["added_tokens"]])
    ids, is_base = _around(mine["post_processor"], base["post_processor"])
    facts = {
        "is_around_base": is_base,
        "added": added,
        "absent": sorted(ids_of(base) - ids_of(mine)),
        "around": ids,
        "parts": parts,
        "batches": [name for name in ("truncation", "padding") if mine[name]],
    }
    rebuilt = build(backend, backend.model, parts, None if is_base else ids)
    rebuilt.add_tokens([token(content, flags) for _, content, flags in added])
    try_against(own, rebuilt, added)
    return facts


def _around(
    mine: dict[str, Any] | None, base: dict[str, Any] | None
) -> tuple[list[list[int]] | None, bool]:
    """Ids before and behind a text, None if they are not known, and whether the base has the same."""
    try:
        of_base = around(base)
    except AdapterError:  # whatever it does
        return (None, True) if mine == base else (around(mine), False)
    ids = around(mine)
    return ids, ids == of_base


def check_counts(added: list[list[Any]], of_base: Sequence[str]) -> None:
    """Check the number and the lengths of added tokens beside those of the base."""
    if len(added) > len(of_base) + MAX_MORE_ADDED:
        raise AdapterError(
            f"the adapter's tokenizer has {len(added)} added tokens, the base's "
            f"{len(of_base)}: at most {MAX_MORE_ADDED} more are supported"
        )
    more = {content for _, content, _ in added}.difference(of_base)
    if long := [content for content in sorted(more) if len(content) > MAX_TOKEN_CHARS]:
        raise AdapterError(
            f"the adapter's tokenizer has a token {shown(long[0])} of over {MAX_TOKEN_CHARS} characters"
        )
    if (characters := sum(map(len, more))) > _MAX_MORE_CHARS:
        raise AdapterError(
            f"the adapter's tokenizer has added tokens of {characters} characters: at most "
            f"{_MAX_MORE_CHARS} are supported"
        )
