"""A call over HTTP: who calls, under which id, and what its handler works with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.requests import Request

from lora_runtime import (
    Engine,
    PromptTokens,
    RequestHandle,
)
from lora_runtime import Request as EngineRequest

from ..auth.rules import Right
from ..auth.tokens import ANYONE, Caller
from ..lifecycle.readiness import Readiness
from ..operations.adapter_changes import AdapterChanges, check_length
from ..operations.adapter_pages import AdapterPages
from ..operations.reads import Reads
from ..operations.server_reports import ServerReports
from ..operations.submission import Submission
from ..request_ids import METADATA_KEY, is_safe, new_id
from ..threads import Threads
from .access import Access
from .bodies.json_text import Limits
from .bodies.reading import Reader
from .metrics_page import MetricsPage
from .names import ModelNames

if TYPE_CHECKING:
    from ..tracing.tracing import Tracing

T = TypeVar("T")
_VALUES = 1 << 15
"""Values of a body beside a prompt's token ids."""


@dataclass(frozen=True)
class Parts:
    """Parts of the server that handlers work with."""

    engine: Callable[[], Engine]
    """Engine; raises EngineStoppedError where it is not loaded."""
    submission: Submission
    changes: AdapterChanges
    threads: Threads
    readiness: Readiness
    metrics: MetricsPage
    access: Access
    names: ModelNames
    reads: Reads
    reports: ServerReports
    adapter_pages: AdapterPages
    reader: Reader
    max_message_bytes: int
    tracing: Tracing | None = None
    """What gives calls their spans, where there are any."""


class Call:
    """Call of one route, from its headers to the end of its answer."""

    fields: Mapping[str, str] = {}
    """Names of the runtime's fields as the caller knows them, for refusals."""
    has_share = False
    """Whether the call is counted among its caller's."""
    adapter = ""
    """Adapter that the call is about, as far as it is known, for the log."""

    def __init__(self, parts: Parts, request: Request, route: str) -> None:
        self.parts, self.request, self.route = parts, request, route
        given = request.headers.get(METADATA_KEY, "")
        self.request_id = given if is_safe(given) else new_id()
        self.who: Caller = ANYONE
        self._handles: list[RequestHandle] = []

    @property
    def peer(self) -> str:
        client = self.request.client
        return f"{client.host}:{client.port}" if client else ""

    @property
    def was_submitted(self) -> bool:
        """True once the engine has taken something up."""
        return bool(self._handles)

    def authenticate(self) -> None:
        """Find who calls. Raises HttpError."""
        self.who = self.parts.access.caller(
            self.request.headers, self.route, self.peer, self.request_id
        )

    def allow(self, right: Right, adapters: Iterable[str] = (), priority: int = 0) -> None:
        """Check what the caller may do. Raises HttpError."""
        self.parts.access.check(self.who, right, adapters, priority, self.route, self.request_id)

    async def read(self, work: Callable[[], T]) -> T:
        """Run `work`, which takes locks, in the caller's turn. See Reads."""
        return await self.parts.reads.run(work, self.who)

    async def json(self) -> dict[str, Any]:
        """Read the body, which must be a JSON object. Raises HttpError."""
        tokens = self.parts.engine().request_limits.token_ids or 0
        limits = Limits(_VALUES + tokens)
        return await self.parts.reader.read_object(self.request, self.who, limits)

    async def submit(self, request: EngineRequest, max_bytes: int | None = None) -> RequestHandle:
        """Submit a request, in the caller's name; it is cancelled when the call ends.

        `max_bytes`: the most that an answer may have which is sent at once. Raises HttpError outside
        the caller's scope, and as Submission.
        """
        self._check_use(request)
        handle = await self.parts.submission.submit(request, self.who, max_bytes=max_bytes)
        self._handles.append(handle)
        return handle

    async def tokenize(
        self,
        request: EngineRequest,
        make: Callable[[PromptTokens], T],
        add_special_tokens: bool = True,
    ) -> T:
        """Make something of a prompt's tokens, on a thread. Raises as `submit`."""
        self._check_use(request)
        return await self.parts.submission.tokenize(request, self.who, make, add_special_tokens)

    def _check_use(self, request: EngineRequest) -> None:
        names = [use.adapter_id for use in request.uses] or [""]
        for name in names:
            check_length(name)  # patterns are matched with it
        self.adapter = "+".join(names)
        self.allow(Right.USE, names, request.priority)

    def end(self) -> None:
        """Cancel what runs for the call."""
        for handle in self._handles:
            handle.cancel()
