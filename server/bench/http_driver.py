"""Calls over OpenAI's HTTP API, by aiohttp."""

from __future__ import annotations

import json
import ssl
import time
from types import TracebackType
from typing import Any, Self

import aiohttp

from .call import CONNECT_TIMEOUT_S, OK, Ask, BenchError, Call
from .draws.prompts import Prompt, salts

_KEEP_ALIVE_S = 4.0
"""Less than servers keep idle connections: none is sent on that is about to be closed."""


class HttpDriver:
    """Caller of one server's completions, or chats where a prompt is one."""

    def __init__(self, url: str, ask: Ask, token: str = "", tls: ssl.SSLContext | None = None):
        self._url, self._ask, self._tls = url, ask, tls
        self._headers = {"content-type": "application/json"}
        if token:
            self._headers["authorization"] = f"Bearer {token}"
        self._salts = salts()

    async def __aenter__(self) -> Self:
        # No limit of its own: how many calls run at once is the load's matter.
        connector = aiohttp.TCPConnector(
            limit=0, ssl=self._tls or True, keepalive_timeout=_KEEP_ALIVE_S
        )
        timeout = aiohttp.ClientTimeout(total=self._ask.timeout_s)
        self._session = aiohttp.ClientSession(
            connector=connector, headers=self._headers, timeout=timeout
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._session.close()

    async def connect(self) -> None:
        timeout = aiohttp.ClientTimeout(total=CONNECT_TIMEOUT_S)
        try:
            async with self._session.get(f"{self._url}/health", timeout=timeout) as response:
                await response.read()  # whatever it says
        except (aiohttp.ClientError, OSError) as error:
            raise BenchError(f"{self._url}: {_why(error)}") from error

    async def adapters(self) -> list[str]:
        """Give the models that have a parent."""
        try:
            async with self._session.get(f"{self._url}/v1/models") as response:
                if response.status != 200:
                    why = _message(await response.read())
                    raise BenchError(f"HTTP {response.status}: {why}")
                models = json.loads(await response.read())["data"]
                return [model["id"] for model in models if model.get("parent")]
        except BenchError:
            raise
        except Exception as error:
            raise BenchError(f"{self._url}/v1/models: {error!r}") from error

    async def make(self, call: Call, prompt: Prompt) -> None:
        page = "/v1/chat/completions" if prompt.messages else "/v1/completions"
        body = json.dumps(self._body(call.adapter, prompt))
        try:
            async with self._session.post(self._url + page, data=body) as response:
                if response.status != 200:
                    call.fail(f"HTTP {response.status}", _message(await response.read()))
                elif self._ask.stream:
                    await _read_stream(response, call)
                else:
                    _note_usage(call, json.loads(await response.read())["usage"])
        except TimeoutError:
            call.fail("TIMEOUT", f"it took longer than {self._ask.timeout_s:g} s")
        except (aiohttp.ClientError, OSError) as error:
            call.fail("CONNECTION", _why(error))
        except Exception as error:
            call.fail("BROKEN", f"the answer is not as it should be: {error!r}")

    def _body(self, adapter: str, prompt: Prompt) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": adapter,
            "max_tokens": self._ask.max_new_tokens,
            "temperature": 0,
        }
        body |= {"messages": prompt.messages} if prompt.messages else {"prompt": prompt.text}
        if self._ask.ignore_eos:
            body["ignore_eos"] = True
        if self._ask.salted:
            body["cache_salt"] = next(self._salts)
        if self._ask.stream:
            usage = {"include_usage": True, "continuous_usage_stats": True}
            body |= {"stream": True, "stream_options": usage}
        return body


async def _read_stream(response: aiohttp.ClientResponse, call: Call) -> None:
    rest, done = b"", False
    async for part in response.content.iter_any():
        now = time.perf_counter()
        *events, rest = (rest + part.replace(b"\r", b"")).split(b"\n\n")
        for event in events:
            data = event.removeprefix(b"data:").strip()
            if data == b"[DONE]":
                done = True
            elif event.startswith(b"data:"):  # others are comments
                _take(call, json.loads(data), now)
    if not done and call.status == OK:
        call.fail("BROKEN", "the stream ended without [DONE]")


def _take(call: Call, event: dict[str, Any], now: float) -> None:
    if error := event.get("error"):
        call.fail(f"STREAM {error.get('code')!s:.40}", str(error.get("message")))
        return
    choices, usage = event["choices"], event.get("usage")
    if not choices:
        if usage:
            _note_usage(call, usage)
        return
    # Servers that do not count in each event: one with a text is a token's.
    new = usage["completion_tokens"] - call.tokens if usage else int(_has_text(choices[0]))
    if new > 0:
        call.took(new, now)


def _has_text(choice: dict[str, Any]) -> bool:
    said = choice.get("delta") or {}
    return bool(choice.get("text") or said.get("content") or said.get("reasoning_content"))


def _note_usage(call: Call, usage: dict[str, Any]) -> None:
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    numbers = usage["completion_tokens"], usage["prompt_tokens"], cached
    call.tokens, call.prompt_tokens, call.cached_tokens = map(int, numbers)


def _why(error: Exception) -> str:
    return str(error) or type(error).__name__


def _message(body: bytes) -> str:
    """Give the message of an error's body, or the body."""
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return body.decode(errors="replace")
