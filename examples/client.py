"""A Python client for a running server (`make serve`): a unary call, streams, and an error."""

from __future__ import annotations

import argparse
import asyncio

from loramux.v1.inference_pb2 import ChatMessage
from loramux_client import AsyncClient, CallError, Client


def unary(client: Client, turn: ChatMessage) -> None:
    answer = client.generate(adapter_id="pirate", messages=[turn], max_new_tokens=40)
    choice = answer.choices[0]
    print(f"pirate ({answer.adapter_version[:12]}): {answer.text}")
    print(
        f"  {choice.usage.completion_tokens} tokens, prefill {choice.timings.prefill_s * 1e3:.0f} ms, "
        f"decode {choice.timings.decode_s * 1e3:.0f} ms"
    )


def stream(client: Client, turn: ChatMessage) -> None:
    print("base, sampled: ", end="")
    for event in client.stream(messages=[turn], max_new_tokens=40, temperature=0.7, seed=1):
        print(event.text, end="", flush=True)
    print()


def unknown_adapter(client: Client) -> None:
    """Show that an unknown adapter is an error, never the base model's output."""
    try:
        client.generate(adapter_id="no-such-adapter", prompt="hi")
    except CallError as error:
        print(f"{error.code}: {error.resource!r} ({error.reason})")


async def side_by_side(target: str, turn: ChatMessage) -> None:
    """Stream from two adapters at once, over one connection."""

    async def answer(adapter_id: str) -> str:
        texts = [
            event.text
            async for event in client.stream(
                adapter_id=adapter_id, messages=[turn], max_new_tokens=40
            )
        ]
        return "".join(texts)

    async with AsyncClient(target) as client:
        names = ["pirate", "json"]
        for name, text in zip(names, await asyncio.gather(*map(answer, names)), strict=True):
            print(f"{name}: {text}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("question", nargs="?", default="What is the capital of France?")
    parser.add_argument("--target", default="127.0.0.1:50051")
    args = parser.parse_args()
    turn = ChatMessage(role="user", content=args.question)
    with Client(args.target) as client:
        unary(client, turn)
        stream(client, turn)
        unknown_adapter(client)
    asyncio.run(side_by_side(args.target, turn))


if __name__ == "__main__":
    main()
