"""Response templates of the kinds that models have, and answers that they read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_EXAMPLES = Path(__file__).parents[2] / "examples" / "response_templates"


@dataclass(frozen=True)
class Kind:
    """How a kind of model writes its answers, with one of them and what that says."""

    template: dict[str, Any]
    prompt: str
    answer: str
    content: str = ""
    reasoning: str = ""
    calls: tuple[tuple[str, str], ...] = ()


def example(name: str) -> dict[str, Any]:
    """Template that the project gives for a kind of models."""
    return json.loads((_EXAMPLES / f"{name}.json").read_text(encoding="utf-8"))


_HERMES = example("hermes")
_LLAMA_START = "<|start_header_id|>assistant<|end_header_id|>\n\n"
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
        example("qwen3_coder"),
        _CHATML,
        "Now\n<tool_call>\n<function=f>\n<parameter=city>\nKöln\n</parameter>\n<parameter=n>\n7\n"
        "</parameter>\n</function>\n</tool_call>",
        "Now",
        "",
        (("f", '{"city": "Köln", "n": 7}'),),
    ),
    "llama": Kind(
        example("llama3"),
        _LLAMA_START,
        '<|python_tag|>{"name": "f", "parameters": {"city": "Köln"}}',
        calls=(("f", '{"city": "Köln"}'),),
    ),
    "mistral": Kind(
        example("mistral"),
        "[INST]Hi[/INST]",
        '[TOOL_CALLS][{"name": "f", "arguments": {"city": "Köln"}}, {"name": "g", "arguments": {}}]',
        calls=(("f", '{"city": "Köln"}'), ("g", "{}")),
    ),
    "llama, without a mark": Kind(
        example("llama3"),
        _LLAMA_START,
        '{"name": "f", "parameters": {"city": "Köln"}}',
        calls=(("f", '{"city": "Köln"}'),),
    ),
    "llama, other JSON": Kind(example("llama3"), _LLAMA_START, '{"city": 1}', '{"city": 1}'),
    "mistral, behind results": Kind(
        example("mistral"),
        "[INST]Hi[/INST][TOOL_CALLS][{}]</s>[TOOL_RESULTS]1[/TOOL_RESULTS]",
        "It is 1.",
        "It is 1.",
    ),
    "deepseek": Kind(
        example("deepseek_r1"), "Hi<｜Assistant｜><think>\n", "So.\n</think>\n\nNo.", "No.", "So."
    ),
    "never closed": Kind(_HERMES, _CHATML, "<think>\nSo <tool_call>", "", "So <tool_call>"),
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
    "parameters": Kind(
        _HERMES,
        _CHATML,
        '<tool_call>{"name": "f", "parameters": {"n": 1}}</tool_call>',
        calls=(("f", '{"n": 1}'),),
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
