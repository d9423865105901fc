"""The server's process: it starts, serves until a signal, and ends in time."""

from __future__ import annotations

import asyncio
import gc
import signal
from collections.abc import Callable
from types import FrameType

import structlog

from .app import App
from .auth.tokens import AuthFileError
from .config import Settings
from .lifecycle.ending import STOP_S, end_by, end_now, end_soon
from .tls import TLSError

log = structlog.get_logger("loramux.server")


async def serve(settings: Settings) -> int:
    """Run until SIGTERM or SIGINT; the process's exit status. A second signal ends it at once."""
    stop = asyncio.Event()
    _on_signals(stop.set, settings.drain_delay_s + settings.drain_s + STOP_S)
    try:
        app = App(settings)
        await app.listen()
    except (RuntimeError, OSError, AuthFileError, TLSError) as error:
        # Such as a port that is taken, or a bad file.
        log.error("the server cannot listen", error=str(error))
        return 1
    status = await _load_and_wait(app, stop)
    await app.stop()
    end_soon(status)
    return status


async def _load_and_wait(app: App, stop: asyncio.Event) -> int:
    """Load, and wait for `stop`; the exit status, 1 where the server could not start."""
    loading = asyncio.ensure_future(app.load())
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait({loading, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if loading.done() and (failure := loading.exception()) is not None:
        log.error("the server could not start", error=str(failure), kind=type(failure).__name__)
        return 1
    if loading.done():
        _settle()
    await stopping
    # Nobody is served yet where it still runs. `end_soon` leaves its thread behind.
    loading.cancel()
    await asyncio.wait({loading})
    return 0


def _settle() -> None:
    """Take what the start has made out of the garbage collector's sight: a full collection would
    hold up every stream for as long as it looks through all of that."""
    gc.collect()
    gc.freeze()


def _on_signals(stop: Callable[[], None], most_s: float) -> None:
    """Call `stop` on the event loop at the first signal; the process ends `most_s` later, if not
    before."""
    loop = asyncio.get_running_loop()
    numbers: list[int] = []

    def on_signal(number: int, frame: FrameType | None) -> None:
        numbers.append(number)
        if len(numbers) > 1:
            log.warning("ended at once by a second signal")
            end_now(1)
        end_by(most_s, status=1)
        loop.call_soon_threadsafe(stop)

    for number in (signal.SIGTERM, signal.SIGINT):
        # Not the loop's own handlers: they wait for a loop that is busy.
        signal.signal(number, on_signal)
