"""What a tokenizer does, as far as it is told without trying texts; and trials of one against another."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from tokenizers import Tokenizer

from ....errors import AdapterError
from ..files import shown
from .pipeline import FLAGS

METHODS = ("__call__", "_encode_plus", "decode", "_decode")
"""Methods of transformers' classes between a text and the pipeline."""
MAX_AROUND = 64
_TEXTS = (
    "Hello, World! It's 12:34, isn't it?  two  spaces\n\n\ttab ",
    " leading and trailing ",
    "Ünïcödé ﬁ ﷺ Ａ e\u0301 İstanbul ß Σίσυφος naïve",
    "你好，世界 こんにちは 안녕 नमस्ते 👩‍👩‍👧‍👦🇫🇷",
    "def f(x):\r\n    return x**2  # ▁##Ġ</w>\u00a0\u200b\u2581",
    "a",
    " ",
    "",
)
_MANY = 256
"""Added tokens that are tried in several places, the last ones; the others by themselves."""


def backend_of(tokenizer: Any) -> Tokenizer | None:
    """The tokenizers library's part of a tokenizer; None for one that runs in Python."""
    backend = getattr(tokenizer, "_tokenizer", None)
    return backend if isinstance(backend, Tokenizer) else None


def methods_of(tokenizer: Any) -> list[str]:
    """Names of what its class does in Python."""
    found = [getattr(type(tokenizer), name) for name in METHODS]
    return [f"{method.__module__}.{method.__qualname__}" for method in found]


def cleans_up(tokenizer: Any) -> bool:
    """Whether it takes spaces out of what it has decoded: for BPE only where it is told twice."""
    forced = "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output"
    backend = backend_of(tokenizer)
    is_bpe = backend is not None and type(backend.model).__name__ == "BPE"
    return bool(getattr(tokenizer, "clean_up_tokenization_spaces", False)) and (
        not is_bpe or bool(getattr(tokenizer, forced, False))
    )


def added_of(backend: Tokenizer) -> list[list[Any]]:
    """[id, content, flags] of the added tokens.

    Special is what decoding leaves out: added twice, a token stays what it was at first there.
    """
    added = []
    for index, one in backend.get_added_tokens_decoder().items():
        flags = {name: getattr(one, name) for name in FLAGS}
        if backend.decode([index], skip_special_tokens=False):
            flags["special"] = not backend.decode([index], skip_special_tokens=True)
        bits = sum(1 << bit for bit, name in enumerate(FLAGS) if flags[name])
        added.append([index, one.content, bits])
    return sorted(added)


def around(post_processor: dict[str, Any] | None) -> list[list[int]]:
    """Ids before and behind a text.

    Raises AdapterError for a post-processor that does anything else.
    """
    before: list[int] = []
    behind: list[int] = []
    for step in _processors(post_processor):
        first, last = _step(step)
        before, behind = [*first, *before], [*behind, *last]
    if len(before) + len(behind) > MAX_AROUND:
        raise AdapterError(
            f"the adapter's tokenizer has a post_processor that adds over {MAX_AROUND} tokens"
        )
    return [before, behind]


def _processors(post_processor: dict[str, Any] | None) -> Sequence[dict[str, Any]]:
    if post_processor and post_processor["type"] == "Sequence":
        return post_processor["processors"]
    return [post_processor] if post_processor else []


def _step(step: dict[str, Any]) -> tuple[list[int], list[int]]:
    kind = step["type"]
    if kind == "ByteLevel":  # that changes offsets alone
        return [], []
    if kind in ("BertProcessing", "RobertaProcessing"):
        return [step["cls"][1]], [step["sep"][1]]
    pieces = step["single"] if kind == "TemplateProcessing" else []
    at = [i for i, piece in enumerate(pieces) if "Sequence" in piece]
    if len(at) != 1 or pieces[at[0]]["Sequence"]["id"] != "A":
        raise AdapterError(
            f"the adapter's tokenizer has a post_processor that is not supported: {shown(kind)}"
        )
    return _ids(step, pieces[: at[0]]), _ids(step, pieces[at[0] + 1 :])


def _ids(step: dict[str, Any], pieces: Sequence[dict[str, Any]]) -> list[int]:
    names = [piece["SpecialToken"]["id"] for piece in pieces]
    return [index for name in names for index in step["special_tokens"][name]["ids"]]


def try_against(own: Any, rebuilt: Tokenizer, added: Sequence[Sequence[Any]]) -> None:
    """Compare a tokenizer with the pipeline that was rebuilt of its parts, on many texts and ids.

    Raises AdapterError where they differ.
    """
    rebuilt.encode_special_tokens = bool(own.split_special_tokens)
    contents = [content for _, content, _ in added]
    texts = [*_TEXTS, *contents, *(t for c in contents[-_MANY:] for t in _with(c))]
    found = []
    for text in texts:
        for special in (True, False):
            ids = own(text, add_special_tokens=special, verbose=False)["input_ids"]
            _same(text, ids, rebuilt.encode(text, add_special_tokens=special).ids)
        found.append(ids)
    found += [[index] for index, _, _ in added]
    for ids in found:
        for skip in (True, False):
            options = {"skip_special_tokens": skip}
            text = own.decode(ids, **options, clean_up_tokenization_spaces=False)
            _same(ids, text, rebuilt.decode(ids, **options))


def _with(content: str) -> tuple[str, ...]:
    changes: tuple[Callable[[str], str], ...] = (str.lower, str.upper)
    return (f"a{content}b", f"a  {content}  b", content * 2, *(f(content) for f in changes))


def _same(what: Any, wanted: Any, got: Any) -> None:
    if wanted != got:
        raise AdapterError(
            f"the adapter's tokenizer is not supported: it makes {shown(wanted)} of {shown(what)}, "
            f"and its parts as they are written make {shown(got)}"
        )


def settings_of(tokenizer: Any) -> dict[str, Any]:
    """Settings of a tokenizer that runs in Python, but for names of tokens and what has no effect."""
    without = {*tokenizer.SPECIAL_TOKENS_ATTRIBUTES, *_WITHOUT_EFFECT}
    settings = {k: v for k, v in tokenizer.init_kwargs.items() if k not in without}
    return json.loads(json.dumps(settings, default=str))


_WITHOUT_EFFECT = (
    "added_tokens_decoder",  # compared as the vocabulary is
    "additional_special_tokens",
    "auto_map",
    "chat_template",
    "extra_special_tokens",
    "is_local",
    "local_files_only",
    "max_length",
    "model_max_length",
    "model_specific_special_tokens",
    "name_or_path",
    "pad_to_multiple_of",
    "pad_token_type_id",
    "padding_side",
    "processor_class",
    "response_schema",
    "response_template",  # compared beside the chat template
    "special_tokens_map_file",
    "stride",
    "tokenizer_class",
    "tokenizer_file",
    "truncation_side",
    "truncation_strategy",
    "vocab_file",
)
"""Settings for batches and of provenance."""
