"""Tokenizers of three kinds, and changes of their files as trainers make them."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from lora_runtime.adapters.peft.tokenizer.reading import OwnTokenizer, read_tokenizer

SPECIAL = ["<s>", "</s>", "<unk>", "<reserved_0>", "<reserved_1>", "<tool>"]


def _byte_level() -> PreTrainedTokenizerFast:
    names = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()), "He", "ll"]
    vocabulary = {token: index for index, token in enumerate(names)}
    raw = Tokenizer(models.BPE(vocabulary, [("H", "e"), ("l", "l")]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    return made(raw)


def _sentence_piece() -> PreTrainedTokenizerFast:
    bytes_ = [f"<0x{index:02X}>" for index in range(256)]
    names = [*SPECIAL, *bytes_, *"▁abcdefghlortuWHx1234,.", "He", "ll"]
    vocabulary = {token: index for index, token in enumerate(names)}
    merges = [("H", "e"), ("l", "l")]
    raw = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True))
    raw.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    raw.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
         decoders.Strip(" ", 1, 0)]
    )  # fmt: skip
    return made(raw)


def _unigram() -> PreTrainedTokenizerFast:
    scores = [(token, -float(i)) for i, token in enumerate([*SPECIAL, *"▁abcdefHWorld", "▁He"])]
    raw = Tokenizer(models.Unigram(scores, unk_id=2))
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return made(raw)


def made(raw: Tokenizer) -> PreTrainedTokenizerFast:
    raw.add_special_tokens(SPECIAL)
    raw.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>")


BASES = {"byte level": _byte_level, "sentence piece": _sentence_piece, "unigram": _unigram}


def change_json(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


Change = Callable[[dict[str, Any]], Any]


def saved(
    base: Any, directory: Path, change: Change | None = None, config: Change | None = None
) -> Path:
    copy.deepcopy(base).save_pretrained(directory)
    if change:
        change_json(directory / "tokenizer.json", change)
    if config:
        change_json(directory / "tokenizer_config.json", config)
    return directory


def read(directory: Path, base: Any) -> OwnTokenizer:
    return read_tokenizer(directory, base, len(base))


def added(**fields: Any) -> Change:
    """Fields of the last added token."""
    return lambda t: t["added_tokens"][-1].update(fields)


def more(content: str, **fields: Any) -> Change:
    def change(whole: dict[str, Any]) -> None:
        last = whole["added_tokens"][-1]
        model = whole["model"]["vocab"]
        index = len(model) + fields.pop("beyond", 0)
        whole["added_tokens"].append({**last, "content": content, "id": index, **fields})

    return change


def rename(old: str, new: str) -> Change:
    """As trainers rename a reserved token: wherever it stands."""

    def change(whole: dict[str, Any]) -> None:
        text = json.dumps(whole).replace(json.dumps(old), json.dumps(new))
        whole.update(json.loads(text))

    return change


def without(content: str) -> Change:
    def change(whole: dict[str, Any]) -> None:
        whole["added_tokens"] = [t for t in whole["added_tokens"] if t["content"] != content]
        if isinstance(whole["model"]["vocab"], dict):
            whole["model"]["vocab"].pop(content, None)

    return change


def around(*steps: dict[str, Any]) -> Change:
    return lambda t: t.update(post_processor={"type": "Sequence", "processors": list(steps)})


def sequence(kind: str, *steps: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", kind: list(steps)}


BYTE_LEVEL = {
    "type": "ByteLevel",
    "add_prefix_space": True,
    "trim_offsets": True,
    "use_regex": True,
}
DIGITS = {"type": "Digits", "individual_digits": True}
BERT = {"type": "BertProcessing", "sep": ["</s>", 1], "cls": ["<s>", 0]}
TEXT = {"Sequence": {"id": "A", "type_id": 0}}
PAIR = [TEXT, {"Sequence": {"id": "B", "type_id": 0}}]
ENDS = {
    "type": "TemplateProcessing",
    "single": [TEXT, {"SpecialToken": {"id": "q", "type_id": 0}}],
    "pair": PAIR,
    "special_tokens": {"q": {"id": "q", "ids": [1, 5], "tokens": ["</s>", "<tool>"]}},
}
LOWER = {"type": "Lowercase"}
