"""`loramux generate`: what it sends, and what it prints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from loramux.v1 import inference_pb2 as pb

from server.cli.chat_files import read_messages

from ..support.servers import Harness
from .test_cli import run


async def test_generate_streams_text(served: Harness) -> None:
    expected = await served.generate(
        adapter_id="a1", messages=[{"role": "user", "content": "hi"}], max_new_tokens=12
    )
    result = await run(served, "generate", "hi", "-a", "a1", "--max-new-tokens", "12")
    assert result.stdout == expected.text + "\n"
    piped = await run(served, "generate", "-", "-a", "a1", "--max-new-tokens", "12", stdin="hi")
    assert piped.stdout == result.stdout


async def test_generate_json(served: Harness) -> None:
    result = await run(
        served,
        "generate",
        "hi",
        "--no-chat",
        "--json",
        "--max-new-tokens",
        "4",
        "--seed",
        "1",
        "--temperature",
        "0.5",
        "--top-p",
        "0.9",
        "--top-k",
        "5",
        "--stop",
        "zz",
    )
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert events[-1]["finish_reason"].startswith("FINISH_REASON_")
    assert events[-1]["usage"]["prompt_tokens"] == 2


async def test_generate_goes_on_with_a_begun_answer(served: Harness) -> None:
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "It is"}]
    expected = await served.generate(
        messages=turns,
        max_new_tokens=12,
        continue_final_message=True,
        skip_special_tokens=False,
        chat_template_kwargs={"enable_thinking": False},
    )
    args = ("generate", "hi", "--max-new-tokens", "12")
    result = await run(
        served,
        *args,
        *("--continue", "It is", "--no-skip-special-tokens"),
        *("--chat-template-kwargs", '{"enable_thinking": false}'),
    )
    assert result.stdout == expected.text + "\n"
    deep = '{"a":' * 3000 + "1" + "}" * 3000
    for wrong in ("[1]", "{", '{"a": "\\ud800"}', '{"a": 1%s}' % ("0" * 400), deep):
        result = await run(served, *args, "--chat-template-kwargs", wrong, code=2)
        assert "must be a JSON object" in result.stderr
    result = await run(served, *args, "--no-chat", "--chat-template-kwargs", '{"a": 1}', code=1)
    assert "chat_template_kwargs: needs messages" in result.stderr
    await run(served, *args, "--no-chat", "--continue", "It is", code=2)
    assert "no text in UTF-8" in (await run(served, "generate", "\udcff", code=2)).stderr


async def test_generate_with_tools(served: Harness, tmp_path: Path) -> None:
    parameters = {"type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"]}
    tool = {
        "type": "function",
        "function": {"name": "f", "parameters": parameters | {"additionalProperties": False}},
    }
    turns = [
        {"role": "user", "content": [{"type": "text", "text": "hi"}]},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": {"on": True}}}],
        },
        {"role": "tool", "content": "5", "tool_call_id": "c"},
    ]
    tools, messages = tmp_path / "tools.json", tmp_path / "messages.json"
    tools.write_text(json.dumps([tool]))
    messages.write_text(json.dumps(turns))
    args = ("generate", "--messages", str(messages), "--tools", str(tools))
    result = await run(served, *args, "--tool-choice", "f")
    assert result.stdout in ('\nf {"on": true}\n', '\nf {"on": false}\n')
    parsed = await run(served, "generate", "hi", "--parse", "--max-new-tokens", "3", "--json")
    events = [json.loads(line) for line in parsed.stdout.splitlines()]
    assert "".join(e["content"] for e in events) == "".join(e["text"] for e in events)
    result = await run(served, *args, "--tool-choice", "g", code=1)
    assert "no tool is named 'g'" in result.stderr
    await run(served, "generate", "--messages", str(messages), "--no-chat", code=2)
    turn, call = {"role": "user", "content": "hi"}, {"function": {"name": "f"}}
    for wrong in (
        "{",
        "[1]",
        '[{"content": "no role"}]',
        '[{"role": "a", "content": 5}]',
        json.dumps([turn | {"content": [{"type": "text"}]}]),
        json.dumps([turn | {"audio": {"id": "x"}}]),
        json.dumps([turn | {"tool_calls": [call | {"type": "custom"}]}]),
    ):
        messages.write_text(wrong)
        assert "--messages" in (await run(served, *args, code=2)).stderr


@pytest.mark.parametrize(
    "names",
    [("reasoning_content", "reasoning"), ("reasoning",), ("reasoning_content",)],
    ids=["both", "shorter", "longer"],
)
def test_an_answer_of_the_http_front_is_a_turn(tmp_path: Path, names: tuple[str, ...]) -> None:
    answer = {"role": "assistant", "content": "5", "refusal": None, **dict.fromkeys(names, "2+3")}
    (messages := tmp_path / "messages.json").write_text(json.dumps([answer]))
    (turn,) = read_messages(messages)
    assert pb.ChatMessage(**turn) == pb.ChatMessage(
        role="assistant", content="5", reasoning_content="2+3"
    )


async def test_generate_with_biases(served: Harness) -> None:
    args = ("generate", "hi", "--max-new-tokens", "3")
    given = ("--logit-bias", "65=100", "--logit-bias", "66=-100", "--min-tokens", "3")
    expected = await served.generate(
        messages=[{"role": "user", "content": "hi"}],
        max_new_tokens=3,
        logit_bias={65: 100, 66: -100},
        min_tokens=3,
    )
    result = await run(served, *args, *given)
    assert result.stdout == expected.text + "\n"
    assert list(expected.choices[0].token_ids) == [65] * 3
    for wrong in ("65", "a=1", "65=x", "-1=1", "5000000000=1"):
        result = await run(served, *args, "--logit-bias", wrong, code=2)
        assert "must be ID=BIAS" in result.stderr
    result = await run(served, *args, "--logit-bias", "1=1", "--logit-bias", "1=2", code=2)
    assert "names a token twice" in result.stderr


async def test_generate_with_several_adapters(served: Harness) -> None:
    fields = {"messages": [{"role": "user", "content": "hi"}], "max_new_tokens": 12}
    for args, adapters in (
        (["-a", "a1=0.5"], [{"adapter_id": "a1", "weight": 0.5}]),
        (
            ["-a", "a0", "--adapter", "a1=-0.5", "--priority", "3"],
            [{"adapter_id": "a0"}, {"adapter_id": "a1", "weight": -0.5}],
        ),
    ):
        expected = await served.generate(adapters=adapters, **fields)
        result = await run(served, "generate", "hi", *args, "--max-new-tokens", "12")
        assert result.stdout == expected.text + "\n"
    result = await run(served, "generate", "hi", "-a", "no=such", code=1)
    assert "adapter 'no=such' is not registered" in result.stderr
