"""Response templates of the kinds that models have, and answers that they read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_FUNCTION = {"type": "function", "function": "{content}"}


@dataclass(frozen=True)
class Kind:
    """How a kind of model writes its answers, with one of them and what that says."""

    template: dict[str, Any]
    prompt: str
    answer: str
    content: str = ""
    reasoning: str = ""
    calls: tuple[tuple[str, str], ...] = ()


def _template(anchor: str, **fields: Any) -> dict[str, Any]:
    return {"defaults": {"role": "assistant"}, "start_anchor": anchor, "fields": fields}


_HERMES = _template(
    "<|im_start|>assistant\n",
    reasoning_content={"open": "<think>", "close": "</think>", "content": "text"},
    tool_calls={
        "open_pattern": r"\s*<tool_call>",
        "close": "</tool_call>",
        "repeats": True,
        "content": "json",
        "transform": _FUNCTION,
    },
    content={"close_pattern": r"\s*(?:<\|im_end\|>|<\|endoftext\|>)", "content": "text"},
)
_QWEN35 = _template(
    "<|im_start|>assistant\n",
    tool_calls={
        "open_pattern": r"\s*<tool_call>\s*<function=(?P<name>[^>\n]+)>",
        "close_pattern": r"</function>\s*</tool_call>",
        "repeats": True,
        "content": "xml-inline",
        "content_args": {
            "tag_pattern": r"<parameter=(?P<key>[^>\n]+)>\s*(?P<value>.*?)\s*</parameter>"
        },
        "transform": {
            "type": "function",
            "function": {"name": "{name}", "arguments": "{content}"},
        },
    },
    content={"content": "text"},
)
_LLAMA = _template(
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    tool_calls={
        "open": "<|python_tag|>",
        "content": "json",
        "repeats": True,
        "transform": {
            "type": "function",
            "function": {"name": "{content.name}", "arguments": "{content.parameters}"},
        },
    },
    content={"content": "text"},
)
_MISTRAL = _template(
    "[/INST]",
    tool_calls={
        "open": "[TOOL_CALLS]",
        "content": "json",
        "transform_each": True,
        "transform": {
            "type": "function",
            "function": {"name": "{name}", "arguments": "{arguments}"},
        },
    },
    content={"content": "text"},
)
_CHATML = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"

KINDS = {
    "hermes": Kind(
        _HERMES,
        _CHATML,
        '<think>\nTwo of them.\n</think>\n\nLet me see.\n<tool_call>\n{"name": "f", "arguments": '
        '{"city": "Köln", "n": 1.0}}\n</tool_call>\n<tool_call>\n{"name": "g", "arguments": {}}\n'
        "</tool_call>",
        "Let me see.",
        "Two of them.",
        (("f", '{"city": "Köln", "n": 1.0}'), ("g", "{}")),
    ),
    "hermes, begun": Kind(
        _HERMES, _CHATML + "<think>\n", "So.\n</think>\n\n It is  \n", "It is", "So."
    ),
    "qwen3.5": Kind(
        _QWEN35,
        _CHATML,
        "Now\n<tool_call>\n<function=f>\n<parameter=city>\nKöln\n</parameter>\n<parameter=n>\n7\n"
        "</parameter>\n</function>\n</tool_call>",
        "Now",
        "",
        (("f", '{"city": "Köln", "n": 7}'),),
    ),
    "llama": Kind(
        _LLAMA,
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        '<|python_tag|>{"name": "f", "parameters": {"city": "Köln"}}',
        calls=(("f", '{"city": "Köln"}'),),
    ),
    "mistral": Kind(
        _MISTRAL,
        "[INST]Hi[/INST]",
        '[TOOL_CALLS][{"name": "f", "arguments": {"city": "Köln"}}, {"name": "g", "arguments": {}}]',
        calls=(("f", '{"city": "Köln"}'), ("g", "{}")),
    ),
    "no call": Kind(_HERMES, _CHATML, "It is <b>5</b>. \n Is it? \n", "It is <b>5</b>. \n Is it?"),
    "no JSON": Kind(
        _HERMES,
        _CHATML,
        "<think>So</think>a <tool_call>{f}</tool_call> b",
        "a <tool_call>{f}</tool_call> b",
        "So",
    ),
    "cut off": Kind(
        _HERMES, _CHATML, 'a\n<tool_call>{"name": "f", "ar', 'a\n<tool_call>{"name": "f", "ar'
    ),
    "several texts": Kind(
        _HERMES,
        _CHATML,
        'a \n<tool_call>{"name": "f"}</tool_call>\n b\n',
        "a\n b",
        calls=(("f", "{}"),),
    ),
    "no name": Kind(_HERMES, _CHATML, "<tool_call>[1]</tool_call>", "<tool_call>[1]</tool_call>"),
}
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "f",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}, "n": {"type": "number"}},
            },
        },
    },
    {"type": "function", "function": {"name": "g"}},
]
