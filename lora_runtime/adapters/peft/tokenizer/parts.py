"""Reading of a tokenizer's files inside a worker: what of it is not the base's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ....errors import AdapterError
from ....foreign.worker import RefusedError
from ..files import decode_object, shown

READ = f"{__name__}:read"
BASE = "base.json"
"""The base's pipeline, in the folder beside the adapter's files, in tokenizers' own format."""
FILES = "files"
"""Folder of the adapter's files."""
FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
"""Flags of an added token, by the bits of a number from the lowest."""
MAX_MORE_ADDED = 1024
"""Added tokens beyond the number that the base has: each is looked for in every text."""
MAX_TOKEN_CHARS = 256
"""Characters of an added token that the base does not have: it may be written at every step."""
_MAX_MORE_CHARS = 1 << 15
"""Characters of all of these: to search texts for them is prepared where the engine runs."""
_MAX_NAMES = 64
_MAX_CHARS = 1 << 20
_PARTS = ("normalizer", "pre_tokenizer", "decoder")


def read(folder: str, is_base_file: bool) -> dict[str, Any]:
    """What an adapter's tokenizer adds to the base's, in small.

    `is_base_file`: its tokenizer.json is the base's own, byte for byte. Raises RefusedError for
    files that make no tokenizer, or one whose text goes another way than the base's.
    """
    path = Path(folder)
    try:
        _check_json(path / FILES)
        own = _load(path / FILES)
        base = json.loads((path / BASE).read_bytes()) if (path / BASE).exists() else None
        answer = _facts(own)
        if base is not None:
            answer |= _pipeline(own, base, path / FILES / "tokenizer.json", is_base_file)
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


def _load(folder: Path) -> Any:
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    has_config = (folder / "tokenizer_config.json").exists()
    kind = AutoTokenizer if has_config else PreTrainedTokenizerFast
    try:
        return kind.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except BaseException as error:  # panics of its library too
        raise AdapterError(
            f"the adapter's tokenizer cannot be loaded: {shown(str(error), 300)}"
        ) from error


def _facts(own: Any) -> dict[str, Any]:
    """Facts that any tokenizer has: named tokens, chat template, number of tokens, last id."""
    special = own.special_tokens_map
    template = own.chat_template
    if len(special) > _MAX_NAMES or len(json.dumps([special, template])) > _MAX_CHARS:
        raise AdapterError("the adapter's tokenizer has a chat template of more than 1 MiB")
    vocabulary = own.get_vocab()
    return {
        "special": special,
        "template": template,
        "split_special": bool(own.split_special_tokens),
        "size": len(vocabulary),
        "last_id": max(vocabulary.values()),
    }


def _pipeline(own: Any, base: dict[str, Any], path: Path, is_base_file: bool) -> dict[str, Any]:
    """Added tokens, and what is put around a text, of a tokenizer with the base's pipeline."""
    from tokenizers import Tokenizer

    backend = getattr(own, "_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise AdapterError(
            f"the adapter's tokenizer is a {type(own).__name__}, which runs in Python: not supported"
        )
    _check_superset(own.get_vocab(), base)
    mine = json.loads(backend.to_str())
    contents = {token["content"] for token in mine["added_tokens"]}
    wrong = None if is_base_file else _other_part(mine, base, contents)
    if wrong and path.exists():
        # A class of transformers may have made another pipeline than the file has.
        wrong = _other_part(json.loads(Tokenizer.from_file(str(path)).to_str()), base, contents)
    if wrong:
        raise AdapterError(f"the adapter's tokenizer has another {wrong} than the base's")
    if len(contents) > len(base["added_tokens"]) + MAX_MORE_ADDED:
        raise AdapterError(
            f"the adapter's tokenizer has {len(contents)} added tokens, the base's "
            f"{len(base['added_tokens'])}: at most {MAX_MORE_ADDED} more are supported"
        )
    added = [[token["id"], token["content"], _flags(token)] for token in mine["added_tokens"]]
    _check_lengths(contents - {token["content"] for token in base["added_tokens"]})
    around = None
    if mine["post_processor"] != base["post_processor"]:
        around = _around(mine["post_processor"], backend)
    return {"added": sorted(added), "around": around}


def _check_lengths(contents: set[str]) -> None:
    if long := [content for content in sorted(contents) if len(content) > MAX_TOKEN_CHARS]:
        raise AdapterError(
            f"the adapter's tokenizer has a token {shown(long[0])} of over {MAX_TOKEN_CHARS} characters"
        )
    if (characters := sum(map(len, contents))) > _MAX_MORE_CHARS:
        raise AdapterError(
            f"the adapter's tokenizer has added tokens of {characters} characters: at most "
            f"{_MAX_MORE_CHARS} are supported"
        )


def _check_superset(mine: dict[str, int], base: dict[str, Any]) -> None:
    vocabulary = _vocabulary(base["model"])
    vocabulary |= {token["content"]: token["id"] for token in base["added_tokens"]}
    for token, index in vocabulary.items():
        if mine.get(token) != index:
            raise AdapterError(
                f"the adapter's tokenizer has {shown(token)} as {mine.get(token)}, the base's as "
                f"{index}: it must hold the base's vocabulary"
            )


def _other_part(mine: dict[str, Any], base: dict[str, Any], added: set[str]) -> str:
    """Name of the first part that is not the base's; "" if there is none."""
    for part in _PARTS:
        if mine[part] != base[part]:
            return part
    own, bases = mine["model"], base["model"]
    if {**own, "vocab": 0} != {**bases, "vocab": 0}:
        return "model"
    # What is added may stand in the vocabulary as well: it is found before the model sees a text.
    if {t for t, _ in _vocabulary(own).items() ^ _vocabulary(bases).items()} - added:
        return "model"
    if isinstance(own["vocab"], list):  # of tokens with their scores
        both = zip(own["vocab"], bases["vocab"], strict=False)
        if any(one != other and one[0] not in added for one, other in both):
            return "model"
    return ""


def _vocabulary(model: dict[str, Any]) -> dict[str, int]:
    """Ids by token; of a Unigram model, whose vocabulary is a list, by the place in it."""
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        return dict(vocabulary)
    return {token: index for index, (token, _) in enumerate(vocabulary)}


def _flags(token: dict[str, Any]) -> int:
    return sum(1 << bit for bit, name in enumerate(FLAGS) if token[name])


def _around(post_processor: dict[str, Any] | None, backend: Any) -> list[list[Any]]:
    """Tokens before and behind a text: a list of [token, id] for each.

    Raises AdapterError for a post-processor that does anything else.
    """
    steps = [post_processor] if post_processor else []
    if post_processor and post_processor["type"] == "Sequence":
        steps = post_processor["processors"]
    steps = [step for step in steps if step["type"] != "ByteLevel"]  # that changes offsets alone
    if not steps:
        return [[], []]
    if len(steps) > 1 or steps[0]["type"] != "TemplateProcessing":
        raise AdapterError("the adapter's tokenizer has another post_processor than the base's")
    found: list[list[Any]] = [[]]
    for piece in steps[0]["single"]:
        if "Sequence" in piece:
            found.append([])
            continue
        name = piece["SpecialToken"]["id"]
        token = steps[0]["special_tokens"][name]
        index = backend.token_to_id(name)
        if token["ids"] != [index] or token["tokens"] != [name]:
            raise AdapterError(
                f"the adapter's tokenizer adds {shown(name)}, which it does not have"
            )
        found[-1].append([name, index])
    if len(found) != 2 or sum(map(len, found)) > _MAX_NAMES:
        raise AdapterError("the adapter's tokenizer has a post_processor that is not supported")
    return found
