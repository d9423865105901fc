"""Begun answers, values for chat templates and special tokens over gRPC."""

from __future__ import annotations

from typing import Any

import grpc
from loramux.v1 import inference_pb2

from ..support.servers import Harness, refused

EIGHT = {"max_new_tokens": 8, "ignore_eos": True}


async def test_chats_go_on_with_a_begun_answer(served: Harness) -> None:
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "It is "}]
    begun = await served.generate(messages=turns, continue_final_message=True, **EIGHT)
    by_prompt = await served.generate(prompt="<user>hi\n<assistant>It is ", **EIGHT)
    assert begun.choices[0].token_ids == by_prompt.choices[0].token_ids
    call = served.generate(messages=turns[:1], continue_final_message=True)
    error = await refused(call, grpc.StatusCode.INVALID_ARGUMENT)
    assert error.details().startswith("continue_final_message: ")


async def test_values_reach_the_chat_template(served: Harness) -> None:
    tokenizer = served.app.engine.base.tokenizer
    template = tokenizer.chat_template
    tokenizer.chat_template = template + "{{ [two + 1, half, on, list, dict] | tojson }}"
    try:
        values: dict[str, Any] = {"two": 2, "half": 0.5, "on": False, "list": [None], "dict": {}}
        values["dict"] = {"z": "日", "a": 2**53}
        by_messages = await served.generate(
            messages=[{"role": "user", "content": "hi"}], chat_template_kwargs=values, **EIGHT
        )
    finally:
        tokenizer.chat_template = template
    shown = '[3, 0.5, false, [null], {"a": 9007199254740992, "z": "日"}]'
    by_prompt = await served.generate(prompt=f"<user>hi\n<bot>{shown}", **EIGHT)
    assert by_messages.choices[0].token_ids == by_prompt.choices[0].token_ids


async def test_special_tokens_are_shown_if_asked_for(served: Harness) -> None:
    fields: dict[str, Any] = {"max_new_tokens": 300, "temperature": 100, "seed": 1, "prompt": "x"}
    hidden = await served.generate(ignore_eos=True, **fields)
    shown = await served.generate(ignore_eos=True, skip_special_tokens=False, **fields)
    tokenizer, ids = served.app.engine.base.tokenizer, list(shown.choices[0].token_ids)
    assert ids == list(hidden.choices[0].token_ids)
    assert "</s>" in shown.text
    assert shown.text.rstrip("\ufffd") == tokenizer.decode(ids).rstrip("\ufffd")
    assert "</s>" not in hidden.text
    explicit = await served.generate(ignore_eos=True, skip_special_tokens=True, **fields)
    assert explicit.text == hidden.text
    stopped = await served.generate(ignore_eos=True, stop=["</s>"], **fields)
    assert hidden.text.startswith(stopped.text)
    assert stopped.choices[0].finish_reason == inference_pb2.FINISH_REASON_STOP
