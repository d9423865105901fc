"""Chats whose template came with an adapter: rendered in a worker, before a request is built."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from concurrent.futures import Future
from typing import Any

from ..adapters.store.version import AdapterVersion
from ..api.requests import Request
from ..config import EngineConfig
from ..errors import RETRY_AFTER_S, AdapterLimitError
from ..foreign.process import WorkError, WorkLimits, WorkTimeoutError
from ..foreign.template_queue import MAX_WAITING, Chat, TemplateQueue
from ..requests.prompts.lengths import TextLimit
from ..requests.prompts.tokenization import refusal, template_values

log = logging.getLogger(__name__)
_KEPT = 4
"""Texts of the largest size that are kept for requests: their callers may be gone by now."""
_ENTRY = 1000
"""Characters that a text counts beside its own."""
_Key = tuple[int, ...]
_LOG_EVERY_S = 60.0


class ForeignChats:
    """Texts of such chats between `begin` and the building of their request.

    The template of the base, the operator's own, is rendered in this process.
    """

    def __init__(self, base_tokenizer: Any, config: EngineConfig, limit: TextLimit) -> None:
        self._base, self._limit = base_tokenizer, limit
        self._queue = TemplateQueue(
            WorkLimits(config.chat_template_timeout_s, config.adapter_worker_bytes)
        )
        self._lock = threading.Lock()
        self._done: OrderedDict[_Key, tuple[Request, str, str]] = OrderedDict()
        """Texts, each with the request that it was begun for, and its version."""
        self._logged = -_LOG_EVERY_S

    def concern(self, request: Request, version: AdapterVersion) -> bool:
        """Whether the request is a chat whose template is the adapter's own."""
        if request.messages is None or version.details is None:
            return False
        own = version.details.tokenizer
        return (
            own is not None
            and bool(own.chat_template)
            and own.chat_template != self._base.chat_template
        )

    def begin(self, request: Request, version: AdapterVersion) -> Future[None]:
        """Render a chat for `text`, unless it is. Raises InvalidRequestError, AdapterLimitError.

        The future fails with InvalidRequestError, EngineStoppedError; cancelled, it is not
        rendered.
        """
        assert version.details is not None
        adapter_id = request.uses[0].adapter_id
        whole: Future[None] = Future()
        if self._is_done(request, version.version):
            whole.set_result(None)
            return whole
        self._limit.check_messages(request.messages or ())
        tokenizer = version.details.tokenizer
        values = template_values(request)
        try:
            template = tokenizer.get_chat_template(tools=values.get("tools"))
        except ValueError as error:
            raise refusal(request, str(error)) from error
        rendering = self._queue.render(
            version.version,
            Chat(
                template,
                [m.values() for m in request.messages or ()],
                values,
                self._limit.characters,
                request.continue_final_message,
                tokenizer.special_tokens_map,
            ),
        )
        if rendering is None:
            limit = f"{MAX_WAITING} chats that wait for its chat template"
            raise AdapterLimitError(adapter_id, limit, RETRY_AFTER_S)

        def done(rendered: Future[str]) -> None:
            if rendered.cancelled() or not whole.set_running_or_notify_cancel():
                whole.cancel()
                return
            if (error := rendered.exception()) is not None:
                whole.set_exception(self._refusal(request, adapter_id, error))
                return
            self._keep(request, version.version, rendered.result())
            whole.set_result(None)

        whole.add_done_callback(lambda f: rendering.cancel() if f.cancelled() else None)
        rendering.add_done_callback(done)
        return whole

    def text(self, request: Request, version: AdapterVersion) -> str:
        """Rendered text of a chat, waited for unless `begin` has made it. Raises as its future."""
        while (text := self._taken(request, version.version)) is None:
            self.begin(request, version).result()
        return text

    def close(self) -> None:
        self._queue.close()

    def _keep(self, request: Request, version: str, text: str) -> None:
        with self._lock:
            self._done[_key(request)] = (request, version, text)
            size = sum(len(text) + _ENTRY for _, _, text in self._done.values())
            while size > _KEPT * self._limit.characters and len(self._done) > 1:
                _, (_, _, text) = self._done.popitem(last=False)
                size -= len(text) + _ENTRY

    def _is_done(self, request: Request, version: str) -> bool:
        with self._lock:
            _, of, _ = self._done.get(_key(request), (request, "", ""))
        return of == version

    def _taken(self, request: Request, version: str) -> str | None:
        with self._lock:
            _, of, text = self._done.pop(_key(request), (request, "", ""))
        return text if of == version else None

    def _refusal(self, request: Request, adapter_id: str, error: BaseException) -> BaseException:
        if not isinstance(error, WorkError):
            return error
        text = f"the chat template of adapter {adapter_id!r} {error}"
        now = time.monotonic()
        if isinstance(error, WorkTimeoutError) and now - self._logged > _LOG_EVERY_S:
            self._logged = now
            log.warning("%s: its worker was ended", text)
        return refusal(request, text)


def _key(request: Request) -> _Key:
    """What is rendered, by its objects: copies of a request have the same, with another time."""
    given = (request.messages, request.chat_template_kwargs, request.tools, request.documents)
    return *(id(one) for one in given), request.continue_final_message
