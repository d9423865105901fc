"""Comparison of an adapter's vocabulary with the base's, inside a worker."""

from __future__ import annotations

import re
from typing import Any

from tokenizers import Tokenizer

from ....errors import AdapterError
from ..files import shown

_BYTE = re.compile("<0x[0-9A-F]{2}>")


def check_model(
    backend: Tokenizer, mine: dict[str, Any], base: dict[str, Any], splits_special: bool
) -> None:
    """Check that a tokenizer's model does with any text what the base's does.

    `mine` is `backend`, and `base` the base's pipeline, in tokenizers' format; `splits_special`:
    the model sees special tokens of a text, too. Tokens that stand among the added ones may be
    called otherwise in the vocabulary, or be left out of it, where no text leads to them but by the
    added tokens. Raises AdapterError.
    """
    own, bases = mine["model"], base["model"]
    _check_settings(_settings(own), _settings(bases))
    vocabulary, other = _vocabulary(own), _vocabulary(bases)
    different = {token for token, _ in vocabulary.items() ^ other.items()}
    if different:
        free = _unreachable(backend, mine, base, splits_special)
        for name in sorted(different - free):
            if name in other:
                raise AdapterError(
                    f"the adapter's tokenizer has {shown(name)} as {vocabulary.get(name)}, the "
                    f"base's as {other[name]}: it must hold the base's vocabulary"
                )
            raise AdapterError(
                f"the adapter's tokenizer has another model than the base's: {shown(name)} is new "
                "in its vocabulary, and not an added token"
            )
    if isinstance(own["vocab"], list):  # of tokens with their scores
        both = zip(own["vocab"], bases["vocab"], strict=False)
        if any(one != that and one[0] not in different for one, that in both):
            raise AdapterError(
                "the adapter's tokenizer has another model than the base's: other scores"
            )


def _settings(model: dict[str, Any]) -> dict[str, Any]:
    """All but the vocabulary, with what means the same written as one."""
    settings = {name: value for name, value in model.items() if name != "vocab"}
    if model["type"] == "BPE":
        for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
            settings[name] = settings.get(name) or None
        if settings.get("unk_token") is None or _spells_all(model):
            settings["unk_token"], settings["fuse_unk"] = None, False
    return settings


def _spells_all(model: dict[str, Any]) -> bool:
    """Whether it has a token for each byte: it knows every text."""
    vocabulary = model["vocab"]
    return bool(model.get("byte_fallback")) and all(
        f"<0x{i:02X}>" in vocabulary for i in range(256)
    )


def _check_settings(mine: dict[str, Any], base: dict[str, Any]) -> None:
    for name in ("type", *sorted(mine.keys() | base.keys())):
        if (one := mine.get(name)) != (other := base.get(name)):
            is_list = isinstance(one, list) or isinstance(other, list)
            what = f"other {name}" if is_list else f"{name} is {shown(one)}, not {shown(other)}"
            raise AdapterError(f"the adapter's tokenizer has another model than the base's: {what}")


def _vocabulary(model: dict[str, Any]) -> dict[str, int]:
    """Ids by token; of a Unigram model, whose vocabulary is a list, by the place in it."""
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        return dict(vocabulary)
    return {token: index for index, (token, _) in enumerate(vocabulary)}


def ids_of(whole: dict[str, Any]) -> set[int]:
    """Ids that a pipeline has tokens for; of those that stand there twice, all."""
    vocabulary = whole["model"]["vocab"]
    ids = vocabulary.values() if isinstance(vocabulary, dict) else range(len(vocabulary))
    return {*ids, *(token["id"] for token in whole["added_tokens"])}


def _unreachable(
    backend: Tokenizer, mine: dict[str, Any], base: dict[str, Any], splits_special: bool
) -> set[str]:
    """Added tokens that the models, which have the same settings, never make of a text."""
    model = mine["model"]
    found_first = {
        token["content"]
        for token in mine["added_tokens"]
        if not token["single_word"]
        and not (token["normalized"] and mine["normalizer"])
        and not (token["special"] and splits_special)
    }
    if model["type"] != "BPE":
        # Such a model finds whole tokens: what is added to it is found before it sees a text.
        return found_first
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        return set()
    added = {token["content"] for side in (mine, base) for token in side["added_tokens"]}
    merged = {"".join(pair) for pair in model["merges"]}  # both have the same
    bytes_ = {token for token in added if model.get("byte_fallback") and _BYTE.match(token)}
    free = {token for token in added - merged - bytes_ if len(token) > 1}
    if not model.get("ignore_merges"):
        return free
    # A word that is a token as a whole is found, too.
    return {token for token in free if token in found_first or _is_cut(backend, token)}


def _is_cut(backend: Tokenizer, token: str) -> bool:
    """Whether the words that a text is cut into begin or end within a token."""
    text = backend.normalizer.normalize_str(token) if backend.normalizer else token
    words = backend.pre_tokenizer.pre_tokenize_str(text) if backend.pre_tokenizer else []
    return len(words) > 1
