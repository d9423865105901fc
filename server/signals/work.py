"""The page for placement: what routers read, and how much work each adapter has been."""

from __future__ import annotations

from collections.abc import Callable

from lora_runtime import Engine, EngineObserver, RequestRecord

from .page import escaped

_HEAD = (
    "# HELP loramux_adapter_work_tokens_total Tokens computed for requests that ended, if they "
    "came to a token: of the prompt, without those found in the prefix cache, and of the answer; of "
    "a composition for its first adapter.\n"
    "# TYPE loramux_adapter_work_tokens_total counter\n"
)


class AdapterWork(EngineObserver):
    """Tokens by adapter, for every id that is registered: there is no limit of labels."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._tokens: dict[str, int] = {}
        self._stale = False

    def on_request_finished(self, record: RequestRecord) -> None:
        if record.adapters and record.ttft_s is not None:  # else it may only have waited
            adapter = record.adapters[0].adapter_id
            work = record.prompt_tokens - record.cached_tokens + record.completion_tokens
            self._tokens[adapter] = self._tokens.get(adapter, 0) + work

    def on_registrations_changed(self) -> None:
        self._stale = True

    def page(self, router: Callable[[], bytes]) -> bytes:
        """Make the page; `router` makes the one for routers, which is its first part."""
        if self._stale:
            self._stale = False
            self._forget()
        lines = [
            f'loramux_adapter_work_tokens_total{{adapter="{escaped(adapter)}"}} {tokens}\n'
            for adapter, tokens in sorted(self._tokens.items())
        ]
        return router() + (_HEAD + "".join(lines)).encode()

    def _forget(self) -> None:
        """Drop ids that are gone, so that what is kept has a bound."""
        known = {registration.adapter_id for registration in self._engine.registrations()}
        for adapter in self._tokens.keys() - known:
            self._tokens.pop(adapter, None)
