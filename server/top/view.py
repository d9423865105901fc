"""The picture: one line each for what runs and how fast, meters, slots, and the table of adapters."""

from __future__ import annotations

from collections.abc import Iterator

from loramux.v1 import server_pb2 as pb
from rich.console import Console, Group
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from .rows import rows
from .seen import Seen
from .table import adapters
from .words import counted, name_of, one_line, seconds, size

_BAR = 24
"""Characters of a meter."""
_ABOVE = 13
"""Lines above the table's rows, slots apart, and below them."""
_FEWEST = 3
_CELLS = 64
"""Slots that are drawn."""
_COLOURS = {"ready": "green", "not_ready": "yellow", "draining": "yellow"}


def picture(seen: Seen, target: str, width: int, height: int | None = None) -> Group:
    """Draw what was seen for a terminal of this size; without a height all adapters are drawn."""
    cells = _cells(seen.status)
    lines = cells.wrap(Console(width=width), width)
    most = None if height is None else max(_FEWEST, height - _ABOVE - len(lines))
    return Group(
        *_head(seen, target),
        "",
        _speed(seen.status),
        _meters(seen.status),
        "",
        cells,
        "",
        *adapters(rows(seen), most, width),
        *_others(seen.status),
    )


def _head(seen: Seen, target: str) -> Iterator[Text]:
    told = seen.status
    state = name_of(pb.ServerState, told.readiness.state)
    yield Text.assemble(
        ("loramux ", "bold"),
        one_line(told.version),
        "  ",
        (one_line(told.base_model), "bold"),
        "  ",
        (state.replace("_", " "), _COLOURS.get(state, "red")),
        f"  {target}",
        no_wrap=True,
        overflow="ellipsis",
    )
    if seen.error:
        words = f"no answer for {seconds(seen.silent_s)}: {one_line(seen.error)}"
        yield Text(words, "red", no_wrap=True, overflow="ellipsis")


def _speed(told: pb.ServerStatus) -> Text:
    rates, step_s = told.rates, told.batch.step_age_s
    parts = [
        f"{rates.generated_tokens_per_s:.0f} tokens/s generated",
        f"{rates.prompt_tokens_per_s:.0f} of prompts",
        f"TTFT p50 {seconds(rates.ttft_p50_s)} p99 {seconds(rates.ttft_p99_s)}"
        if rates.ttft_requests
        else "no first token in the last minute",
    ]
    if step_s >= 1:
        parts.append(f"step since {seconds(step_s)}")
    return Text(" · ".join(parts), no_wrap=True, overflow="ellipsis")


def _meters(told: pb.ServerStatus) -> Table:
    load, limits = told.load, told.limits
    grid = Table.grid(padding=(0, 1))
    device, host = told.memory.adapters, limits.host_adapter_bytes
    for name, used, most, words in (
        (
            "sequences",
            load.running,
            limits.max_running,
            f"{load.running} of {limits.max_running} run, {load.waiting} wait",
        ),
        (
            "KV blocks",
            load.kv_blocks_used,
            limits.kv_blocks,
            f"{load.kv_blocks_used} of {limits.kv_blocks}, "
            f"{load.kv_blocks_cached} more hold prefixes",
        ),
        (
            "slots",
            load.adapters,
            limits.max_adapters,
            f"{load.adapters} of {limits.max_adapters}, {_of(load.adapter_bytes, device)}",
        ),
        (
            "host memory",
            load.host_adapter_bytes,
            host,
            f"{counted(load.host_adapters, 'adapter')}, {_of(load.host_adapter_bytes, host)}; "
            f"{load.registered_adapters} registered",
        ),
    ):
        told_of = Text(words, no_wrap=True, overflow="ellipsis")
        bar = ProgressBar(max(most, 1), used, _BAR, complete_style="cyan", finished_style="cyan")
        grid.add_row(name, bar, told_of)
    return grid


def _of(used: int, most: int) -> str:
    return f"{size(used)} of {size(most)}" if most else size(used)


def _cells(told: pb.ServerStatus) -> Text:
    """Draw a cell for each slot: how many sequences run with it, * where it is pinned."""
    text = Text("slots")
    free = told.limits.max_adapters - len(told.slots)
    drawn: list[tuple[str, str]] = [_cell(slot) for slot in told.slots]
    drawn += [("·", "dim")] * max(0, free)
    for words, colour in drawn[:_CELLS]:
        text.append(" ").append(f"[{words}]", colour)
    if len(drawn) > _CELLS:
        text.append(f" and {len(drawn) - _CELLS} more")
    if told.loading_adapter_ids:
        text.append(f" {len(told.loading_adapter_ids)} on their way", "yellow")
    return text


def _cell(slot: pb.Slot) -> tuple[str, str]:
    if slot.is_hidden:
        return "?", "dim"
    words = f"{slot.running or '-'}{'*' if slot.pinned else ''}"
    return words, "green" if slot.running else ""


def _others(told: pb.ServerStatus) -> Iterator[Text]:
    if number := told.batch.other_adapters:
        sequences = counted(told.batch.other_sequences, "sequence")
        yield Text(f"{sequences} of {counted(number, 'adapter')} outside your scope", "dim")
