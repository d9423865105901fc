"""The operations of one server together: all fronts have the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lora_runtime import Engine

from ..config import Settings
from ..declared import DeclaredStatus
from ..lifecycle.readiness import Readiness
from ..locations import Locations
from ..threads import Threads
from .adapter_changes import AdapterChanges
from .adapter_pages import AdapterPages
from .reads import Reads
from .resolver import Resolver
from .server_reports import ServerReports
from .submission import Submission


class Operations:
    """What callers ask of the engine of one server."""

    def __init__(
        self,
        settings: Settings,
        engine: Callable[[], Engine],
        readiness: Readiness,
        threads: Threads,
        declared: Callable[[], Sequence[DeclaredStatus]],
    ) -> None:
        """Make the parts; `engine` raises EngineStoppedError as long as there is none."""
        most = settings.max_message_bytes
        locations = Locations(settings.adapter_roots, settings.adapter_sources)
        self.reads = Reads(threads.reading)
        self.reports = ServerReports(engine, readiness, most)
        self.changes = AdapterChanges(engine, locations, threads)
        self.pages = AdapterPages(engine, most)

        def declared_names() -> set[str]:
            return {one.name for one in declared()}

        resolver = (
            Resolver(engine, locations, threads, declared_names)
            if settings.resolve_adapters
            else None
        )
        self.submission = Submission(engine, threads, resolver)
