"""The picture, drawn again and again until it is interrupted."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.console import Console
from rich.live import Live

from .seen import Reader
from .view import picture


def show_once(reader: Reader, target: str, console: Console) -> None:
    """Draw one picture, with every adapter."""
    console.print(picture(reader.read(), target, console.width))


def watch(
    reader: Reader,
    target: str,
    console: Console,
    interval_s: float,
    wait: Callable[[float], None] = time.sleep,
) -> None:
    """Draw on the whole terminal, anew every `interval_s`, until KeyboardInterrupt."""
    first = picture(reader.read(), target, console.width, console.height)
    with Live(first, console=console, screen=True, auto_refresh=False) as live:
        live.refresh()
        while True:
            wait(interval_s)
            size = console.size
            live.update(picture(reader.read(), target, *size), refresh=True)
