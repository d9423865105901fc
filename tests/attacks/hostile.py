"""Adapters whose files are hostile, by what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .files import (
    CONFIG,
    INVOCATION,
    TEMPLATE_FILE,
    WEIGHTS,
    Make,
    config,
    fifo,
    filled,
    header,
    link,
    scaled,
    sparse,
    sparse_tensors,
    template,
    text,
    tokenizer,
)

_BYTE_LEVEL = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": True,
    "use_regex": True,
}


def _sequence(kind: str, *parts: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", kind: list(parts)}


def _split(pattern: str) -> dict[str, Any]:
    one = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {"pre_tokenizer": _sequence("pretokenizers", one, _BYTE_LEVEL)}


def _replace(pattern: str, content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"Regex": pattern}, "content": content}


def _plain(text: str, content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"String": text}, "content": content}


def _padding(length: int) -> dict[str, Any]:
    return {
        "strategy": {"Fixed": length},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "<s>",
    }


_STRIP = {"type": "Strip", "content": " ", "start": 1, "stop": 1}
TOKENIZERS: dict[str, Make] = {
    "decoder that panics": tokenizer(decoder=_sequence("decoders", _BYTE_LEVEL, _STRIP)),
    "decoder with a regex": tokenizer(
        decoder=_sequence("decoders", _BYTE_LEVEL, _replace("(a|a|b|b)*c", ""))
    ),
    "decoder that explodes": tokenizer(
        decoder=_sequence("decoders", _BYTE_LEVEL, _replace(".", "a" * 1_000_000))
    ),
    "truncation that panics": tokenizer(
        truncation={"direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 2}
    ),
    "padding to 200 million": tokenizer(padding=_padding(200_000_000)),
    "pre-tokenizer, cubic": tokenizer(**_split("(([ab])+)+$")),
    "pre-tokenizer, exponential": tokenizer(**_split("(a|a)*b")),
    "normalizer that explodes": tokenizer(normalizer=_replace("a", "a" * 1_000_000)),
    "steps that grow as far as they may": tokenizer(
        normalizer=_sequence("normalizers", *[_plain(c, c * 2) for c in " abx"]),
        decoder=_sequence("decoders", _BYTE_LEVEL, *[_plain(c, c * 2) for c in " abx"]),
    ),
    "steps that multiply each other": tokenizer(
        normalizer=_sequence("normalizers", *[{"type": "ByteLevel"}] * 10),
        decoder=_sequence("decoders", *[{"type": "BPEDecoder", "suffix": ""}] * 10),
    ),
    "normalizer, exponential": tokenizer(normalizer=_replace("(a|a)*b", "x")),
    "normalizer of a character map": tokenizer(
        normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}
    ),
    "post-processor without its token": tokenizer(
        post_processor={
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "nobody", "type_id": 0}}],
            "pair": [],
            "special_tokens": {},
        }
    ),
    "an added token without text": tokenizer(
        added_tokens=[
            {
                "id": 0,
                "content": "",
                "special": True,
                "normalized": False,
                **dict.fromkeys(("single_word", "lstrip", "rstrip"), False),
            }
        ]
    ),
    "lists in lists": text("tokenizer.json", "[" * 1_000_000),
    "a vocabulary of numbers": tokenizer(model={"type": "BPE", "vocab": {"a": -1}, "merges": []}),
    "a model that is none": text("tokenizer.model", "\0" * 1_000_000),
    "a class of its own": text(
        "tokenizer_config.json",
        json.dumps({"tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": ["mine.Mine", None]}}),
    ),
    "merges of a long token": lambda directory, ground: _long_merges(directory),
}


def _long_merges(directory: Path) -> None:
    """Converted in Python, one split of the token after the other."""
    word = "a" * 60_000
    vocabulary = {word[:i]: i for i in (1, 2)} | {word: 3}
    (directory / "vocab.json").write_text(json.dumps(vocabulary))
    (directory / "merges.txt").write_text(f"#version: 0.2\na a\n{word[1:]} a\n")
    kind = {"tokenizer_class": "GPT2Tokenizer", "eos_token": "</s>"}
    (directory / "tokenizer_config.json").write_text(json.dumps(kind))


def _loops(depth: int) -> str:
    begin = "".join(f"{{% for i{k} in range(99999) %}}" for k in range(depth))
    return begin + "{% set x = 1 %}" + "{% endfor %}" * depth + "x"


TEMPLATES: dict[str, Make] = {
    "loop": template(_loops(2)),
    "loop of three": template(_loops(3)),
    "power": template("{% set x = 7 ** 6000000 %}x"),
    "tower of powers": template("{% set x = 9 ** (9 ** 9) %}x"),
    "memory": template("{% set x = 'a' * 3000000000 %}x"),
    "memory in a loop": template(
        "{% set n = namespace(x='aaaaaaaa') %}{% for i in range(40) %}{% set n.x = n.x + n.x %}{% endfor %}x"
    ),
    "lists": template("{% set x = [0] * 900000000 %}x"),
    "output": template("{{ 'a ' * 8000000 }}"),
    "output in a loop": template("{% for i in range(99999) %}{{ 'a ' * 1000 }}{% endfor %}"),
    "width": template("{{ '%01000000000d' % 1 }}"),
    "format": template("{{ '{:>1000000000}'.format(1) }}"),
    "lipsum": template("{{ lipsum(n=3000, html=False, min=900, max=1000) }}"),
    "recursion": template("{% macro m(x) %}{{ m(x) }}{{ m(x) }}{% endmacro %}{{ m(1) }}"),
    "joined": template("{{ range(99999) | join('a' * 100000) }}"),
    "a filter of words": template("{{ ('a' * 3000000) | wordwrap(1) | urlize | length }}"),
}
REFUSED_TEMPLATES: dict[str, Make] = {
    "division": template("{{ 1 // 0 }}"),
    "attributes": template("{{ ''.__class__.__mro__[1].__subclasses__() }}"),
    "syntax": template("{% for %}"),
    "brackets": template("{{ " + "(" * 20_000 + "1" + ")" * 20_000 + " }}"),
    "8 MB": template("{{ messages[0].content }}" * 300_000),
    "not": template("{{ " + "not " * 100_000 + "1 }}"),
}

_ZEROS = '{"a":{"dtype":"F32","shape":[' + ",".join(["0"] * 2_000_000) + '],"data_offsets":[0,0]}}'
_NAMES = {
    f"base_model.model.{i}.lora_A.weight": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    for i in range(40_000)
}
_KEYS = {
    "a." + "modules_to_save.x." * 26 + f"{i}.bias": {
        "dtype": "F32",
        "shape": [0],
        "data_offsets": [0, 0],
    }
    for i in range(5_000)
}
REFUSED_FILES: dict[str, Make] = {
    "sparse 2 GiB": sparse_tensors((2 << 30) - 4096),
    "header of lists, 24 MB": header(
        '{"__metadata__":{"a":[' + ",".join(["[]"] * 8_000_000) + "]}}"
    ),
    "header of lists, 3.9 MB": header(
        '{"__metadata__":{"a":[' + ",".join(["[]"] * 1_300_000) + "]}}"
    ),
    "header of open brackets": header("[" * 3_900_000),
    "header of objects in objects": header('{"a":' * 700_000),
    "header with a shape of 2 million zeros": header(_ZEROS),
    "header of 40000 names": header(json.dumps(_NAMES)),
    "header of long names": header(json.dumps(_KEYS)),
    "header of numbers": header('{"a":{"dtype":"F32","shape":[' + "9" * 3_000_000 + "]}}"),
    "header longer than the file": header("{}", 1 << 62),
    "header without an end": header("{}", 2**64 - 1),
    "NaN": filled(float("nan")),
    "infinity": filled(float("inf")),
    "slow to compile": config(target_modules="(?i)" + "[a-\uffff]" * 1600),
    "slow to match": config(target_modules="(([a-z._0-9])+)+!"),
    "pattern of 80 KB": config(target_modules="(" * 40_000 + "a" + ")" * 40_000),
    "80000 patterns": config(rank_pattern={f"x{i}.*y": 4 for i in range(80_000)}),
    "90000 saved modules": config(modules_to_save=[f"x{i}" for i in range(90_000)]),
    "a rank of a billion": config(r=10**9),
    "an alpha that is none": text(CONFIG, '{"peft_type": "LORA", "r": 4, "lora_alpha": NaN}'),
    "a configuration of brackets": text(CONFIG, "[" * 1_000_000),
    "a sparse configuration": sparse(CONFIG, 4 << 30),
    "a sparse tokenizer": sparse("tokenizer.json", 4 << 30),
    "a sparse template": sparse(TEMPLATE_FILE, 4 << 30),
    "a link to zeros": link(WEIGHTS, "/dev/zero"),
    "a configuration that is a link out": link(CONFIG, "/etc/hostname"),
    "a queue for a file": fifo(WEIGHTS),
    "a queue for a configuration": fifo(CONFIG),
    "a queue for a tokenizer": fifo("tokenizer.json"),
}
"""Below the root, and nothing of it may be served."""

OVERFLOW = scaled(1e20, lora_alpha=9e29)
ACTIVATED_OVERFLOW = scaled(1e20, lora_alpha=9e29, alora_invocation_tokens=INVOCATION)
