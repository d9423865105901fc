"""LangChain's ChatOpenAI: calls, streams, batches, structured answers, tools."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

from .harness import ADAPTERS, CAPITAL, check, main


class Answer(BaseModel):
    """The city that was asked for."""

    city: Literal["Paris", "Rome"]
    sure: bool


def weather(city: Literal["Paris", "Rome"]) -> str:
    """Tell the weather of a city."""
    return f"sunny in {city}"


def chat(url: str, model: str, **more: Any) -> ChatOpenAI:
    return ChatOpenAI(
        **{
            "model": model,
            "base_url": f"{url}/v1",
            "api_key": "none",
            "max_tokens": 12,
            "max_retries": 0,
        }
        | more
    )


@check
def a_call_tells_its_tokens_and_model(url: str) -> None:
    for name in ADAPTERS:
        said = chat(url, name, temperature=0).invoke(
            [SystemMessage("You are short."), HumanMessage(CAPITAL)]
        )
        assert said.content
        assert said.response_metadata["model_name"] == name
        assert 0 < said.usage_metadata["output_tokens"] <= 12


@check
def a_stream_is_the_whole_answer_with_its_tokens(url: str) -> None:
    model = chat(url, "pirate", seed=5, stream_usage=True)
    whole = model.invoke(CAPITAL)
    chunks = list(model.stream(CAPITAL))
    assert "".join(chunk.content for chunk in chunks) == whole.content
    told = [chunk.usage_metadata for chunk in chunks if chunk.usage_metadata]
    assert told[-1]["output_tokens"] == whole.usage_metadata["output_tokens"]


@check
def a_batch_and_calls_of_a_loop(url: str) -> None:
    model = chat(url, "json", seed=1)
    assert all(said.content for said in model.batch([CAPITAL] * 4))
    assert asyncio.run(model.ainvoke(CAPITAL)).content


@check
def logprobs_are_in_the_metadata(url: str) -> None:
    said = chat(url, "pirate", logprobs=True, top_logprobs=2).invoke(CAPITAL)
    assert (
        len(said.response_metadata["logprobs"]["content"]) == said.usage_metadata["output_tokens"]
    )


@check
def structured_answers_by_schema(url: str) -> None:
    model = chat(url, "json", max_tokens=60)
    answer = model.with_structured_output(Answer, method="json_schema").invoke(CAPITAL)
    assert isinstance(answer, Answer)


@check
def structured_answers_by_a_tool(url: str) -> None:
    model = chat(url, "json", max_tokens=60)
    answer = model.with_structured_output(Answer, method="function_calling").invoke(CAPITAL)
    assert isinstance(answer, Answer)


@check
def structured_answers_in_json_mode(url: str) -> None:
    model = chat(url, "json", max_tokens=80, temperature=0)
    answer = model.with_structured_output({"title": "any", "type": "object"}, method="json_mode")
    assert isinstance(answer.invoke(f"{CAPITAL} Answer in JSON."), dict)


@check
def bound_tools_are_called(url: str) -> None:
    model = chat(url, "pirate", max_tokens=60)
    for choice in ("any", "weather"):
        bound = model.bind_tools(
            [weather], tool_choice=choice, strict=True, parallel_tool_calls=False
        )
        said = bound.invoke(CAPITAL)
        (call,) = said.tool_calls
        assert call["name"] == "weather"
        assert call["args"]["city"] in ("Paris", "Rome")


@check
def a_tools_result_is_read(url: str) -> None:
    call = {"name": "weather", "args": {"city": "Paris"}, "id": "call_1"}
    said = (
        chat(url, "pirate", temperature=0)
        .bind_tools([weather])
        .invoke(
            [
                HumanMessage("What is the weather in Paris?"),
                AIMessage("", tool_calls=[call]),
                ToolMessage("sunny", tool_call_id="call_1"),
            ]
        )
    )
    assert said.content


if __name__ == "__main__":
    main()
