"""What would go past the log: exceptions that nobody caught, and what is written to the process's
own outputs, by C++ libraries and by child processes too."""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
import threading
from contextlib import suppress
from types import TracebackType

_STDOUT, _STDERR = 1, 2
_LONGEST = 16 << 10
log = logging.getLogger("loramux.server")


def log_uncaught() -> None:
    """Log exceptions that end the process or a thread, and those that Python can only ignore."""

    def uncaught(
        kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        log.critical("uncaught exception", exc_info=(kind, error, trace))

    def in_thread(args: threading.ExceptHookArgs) -> None:
        if args.exc_value is None or isinstance(args.exc_value, SystemExit):
            return
        name = args.thread.name if args.thread else ""
        info = (args.exc_type, args.exc_value, args.exc_traceback)
        log.error("a thread failed", exc_info=info, extra={"thread_name": name})

    def unraisable(args: sys.UnraisableHookArgs) -> None:
        if args.exc_value is not None:
            info = (args.exc_type, args.exc_value, args.exc_traceback)
            log.error(args.err_msg or "exception ignored", exc_info=info)

    sys.excepthook, threading.excepthook, sys.unraisablehook = uncaught, in_thread, unraisable


class StrayOutput:
    """The process's outputs as a pipe, of which each line that arrives is logged.

    Whoever writes to them never waits for who reads the log.
    """

    def __init__(self) -> None:
        """Take the outputs over. A crash of the interpreter is still told to the real one."""
        faulthandler.enable(os.dup(_STDERR))
        self._read, write = os.pipe()
        for output in (_STDOUT, _STDERR):
            os.dup2(write, output)
        os.close(write)
        self._reader = threading.Thread(target=self._log_all, name="loramux-stray", daemon=True)
        self._reader.start()

    def finish(self, timeout_s: float) -> None:
        """Log what has arrived; what comes later is lost."""
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for output in (_STDOUT, _STDERR):
            os.dup2(nowhere, output)
        os.close(nowhere)
        # The pipe's end comes at once, unless child processes are left.
        self._reader.join(timeout_s)

    def _log_all(self) -> None:
        rest = b""
        while data := os.read(self._read, 1 << 16):
            *lines, rest = (rest + data).splitlines(keepends=True)
            if rest.endswith((b"\n", b"\r")) or len(rest) > _LONGEST:
                lines, rest = [*lines, rest], b""
            for line in lines:
                self._log(line)
        self._log(rest)

    def _log(self, line: bytes) -> None:
        if text := line.decode(errors="backslashreplace").strip():
            log.warning("%s", text, extra={"from_output": True})
