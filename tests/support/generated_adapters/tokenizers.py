"""Tokenizers that lie in generated adapters' directories: the base's, changed as trainers change it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)
from transformers import PreTrainedTokenizerFast

Files = Callable[[Any, Path], None]
"""What writes files, from a copy of the base's tokenizer."""


def _with(change: Callable[[Any], Any]) -> Files:
    """The base's tokenizer after `change`, saved."""

    def write(tokenizer: Any, directory: Path) -> None:
        change(tokenizer)
        tokenizer.save_pretrained(directory)

    return write


def _edited(change: Callable[[dict[str, Any]], Any]) -> Files:
    """The base's files, with tokenizer.json changed."""

    def write(tokenizer: Any, directory: Path) -> None:
        tokenizer.save_pretrained(directory)
        path = directory / "tokenizer.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return write


def _renamed(old: str, new: str) -> Files:
    def write(tokenizer: Any, directory: Path) -> None:
        tokenizer.save_pretrained(directory)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            text = (directory / name).read_text()
            (directory / name).write_text(text.replace(json.dumps(old), json.dumps(new)))

    return write


def _around(single: str, *tokens: tuple[str, int]) -> Files:
    def change(tokenizer: Any) -> None:
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=single, special_tokens=list(tokens)
        )

    return _with(change)


def _part(part: str, value: Any) -> Files:
    return _with(lambda tokenizer: setattr(tokenizer.backend_tokenizer, part, value))


def _not_special(content: dict[str, Any]) -> None:
    for token in content["added_tokens"]:
        token["special"] = token["content"] != "<unused>"


def _without(name: str) -> Files:
    def write(tokenizer: Any, directory: Path) -> None:
        tokenizer.save_pretrained(directory)
        (directory / name).unlink(missing_ok=True)

    return write


def _older(tokenizer: Any, directory: Path) -> None:
    """Files as versions before 5 of transformers wrote them."""
    tokenizer.save_pretrained(directory)
    (directory / "special_tokens_map.json").write_text('{"bos_token": "<s>", "eos_token": "</s>"}')
    (directory / "added_tokens.json").write_text('{"<unused>": 4}')


def _another(_: Any, directory: Path) -> None:
    raw = Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="[UNK]").save_pretrained(directory)


def _config_alone(tokenizer: Any, directory: Path) -> None:
    tokenizer.save_pretrained(directory)
    (directory / "tokenizer.json").unlink()


def _generation_config(eos: Any) -> Files:
    def write(_: Any, directory: Path) -> None:
        (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": eos}))

    return write


def _merge(content: dict[str, Any]) -> None:
    content["model"]["merges"] = content["model"]["merges"][:-1]


def _plain(tokens: list[Any], special: bool = False) -> Files:
    return _with(lambda tokenizer: tokenizer.add_tokens(tokens, special_tokens=special))


_WRITERS: dict[str, Files] = {
    "the base's": _with(lambda tokenizer: None),
    "three tokens added": _plain(["<new>", "newword", "two words"]),
    "special tokens added": _plain(["<call>", "<end>"], special=True),
    "a stripping token added": _plain([AddedToken("<new>", lstrip=True, rstrip=True)]),
    "a whole-word token added": _plain([AddedToken("tin", single_word=True)]),
    "a normalised token added": _plain([AddedToken("<New>", normalized=True)]),
    "as many tokens as rows": _plain([f"<extra_{i}>" for i in range(8)]),
    "more tokens than rows": _plain([f"<extra_{i}>" for i in range(12)]),
    "pad token added": _with(lambda t: t.add_special_tokens({"pad_token": "[PAD]"})),
    "pad token named": _with(lambda t: setattr(t, "pad_token", "</s>")),
    "pad token behind the rows": _with(
        lambda t: (
            t.add_tokens([f"<extra_{i}>" for i in range(8)]),
            t.add_special_tokens({"pad_token": "[PAD]"}),
        )
    ),
    "BOS in front": _around("<s> $A", ("<s>", 0)),
    "EOS behind": _around("$A </s>", ("</s>", 1)),
    "both around": _around("<s> $A </s>", ("<s>", 0), ("</s>", 1)),
    "turn in front": _around("<|im_start|> $A", ("<|im_start|>", 2)),
    "BOS twice": _around("<s> <s> $A", ("<s>", 0)),
    "lower case": _part("normalizer", normalizers.Lowercase()),
    "stripped": _part("normalizer", normalizers.Strip()),
    "space in front": _part("pre_tokenizer", pre_tokenizers.ByteLevel(add_prefix_space=True)),
    "one piece": _part("pre_tokenizer", pre_tokenizers.ByteLevel(False, use_regex=False)),
    "digits apart": _part(
        "pre_tokenizer",
        pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(False)]),
    ),
    "another decoder": _part("decoder", decoders.Replace("Ġ", " ")),
    "a token renamed": _renamed("<unused>", "<|my_call|>"),
    "the turn's token renamed": _renamed("<|im_start|>", "<|turn|>"),
    "a letter renamed": _renamed("~", "§"),
    "a token not special": _edited(_not_special),
    "fewer merges": _edited(_merge),
    "another EOS": _with(lambda t: setattr(t, "eos_token", "<|im_end|>")),
    "another template": _with(
        lambda t: setattr(t, "chat_template", "{{ messages[0].content }} the")
    ),
    "no template": _with(lambda t: setattr(t, "chat_template", None)),
    "another vocabulary": _another,
    "older files": _older,
    "without its config": _without("tokenizer_config.json"),
    "its config alone": _config_alone,
    "no special tokens skipped": _with(lambda t: setattr(t, "split_special_tokens", True)),
    "EOS of its generation config": _generation_config(list(range(0, 112, 2))),
}
TOKENIZERS = tuple(_WRITERS)


def write_tokenizer(kind: str, base: Any, directory: Path) -> None:
    if kind != "none":
        _WRITERS[kind](copy.deepcopy(base), directory)
