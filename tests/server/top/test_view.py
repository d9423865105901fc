"""The picture of a server, on terminals of several sizes."""

from __future__ import annotations

from collections.abc import Sequence
from io import StringIO
from typing import Any

import pytest
from loramux.v1 import adapters_pb2
from loramux.v1 import server_pb2 as pb
from rich.console import Console

from server.top.seen import Seen
from server.top.view import picture

DEVICE, COLD = adapters_pb2.ADAPTER_STATE_DEVICE, adapters_pb2.ADAPTER_STATE_COLD


def adapter(adapter_id: str, **fields: Any) -> adapters_pb2.Adapter:
    told: dict[str, Any] = {
        "version": "0123456789" * 6,
        "state": COLD,
        "policy": adapters_pb2.Policy(weight=1),
    }
    return adapters_pb2.Adapter(adapter_id=adapter_id, **(told | fields))


def status(**fields: Any) -> pb.ServerStatus:
    return pb.ServerStatus(
        version="0.1.0",
        base_model="tiny",
        readiness=pb.Readiness(state=pb.SERVER_STATE_READY),
        limits=pb.Limits(max_adapters=4, max_running=8, kv_blocks=100, host_adapter_bytes=2 << 30),
        **fields,
    )


def drawn(seen: Seen, width: int = 120, height: int | None = None) -> list[str]:
    console = Console(file=StringIO(), width=width)
    console.print(picture(seen, "host:1", width, height))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert all(len(line) <= width for line in lines)
    return [line.rstrip() for line in lines]


def line_of(lines: Sequence[str], beginning: str) -> str:
    return next(" ".join(line.split()) for line in lines if line.startswith(beginning))


def test_an_idle_server() -> None:
    lines = drawn(Seen(status(), []))
    assert lines[0] == "loramux 0.1.0  tiny  ready  host:1"
    assert "0 tokens/s generated · 0 of prompts · no first token in the last minute" in lines
    assert line_of(lines, "sequences") == "sequences 0 of 8 run, 0 wait"
    assert line_of(lines, "slots [").endswith("[·] [·] [·] [·]")
    assert not any(line.startswith("adapter ") for line in lines)


def test_load_speed_and_slots() -> None:
    told = status(
        load=pb.Load(
            running=6,
            waiting=2,
            adapters=3,
            adapter_bytes=3 << 20,
            kv_blocks_used=50,
            kv_blocks_cached=7,
            host_adapters=1,
            host_adapter_bytes=1 << 20,
            registered_adapters=1000,
        ),
        memory=pb.Memory(adapters=64 << 20),
        rates=pb.Rates(
            generated_tokens_per_s=412.4,
            prompt_tokens_per_s=96,
            ttft_p50_s=0.0834,
            ttft_p99_s=1.26,
            ttft_requests=9,
        ),
        batch=pb.Batch(step_age_s=12),
        slots=[
            pb.Slot(adapter_ids=["a"], running=5, pinned=True),
            pb.Slot(adapter_ids=["b"]),
            pb.Slot(is_hidden=True),
        ],
        loading_adapter_ids=["c", "d"],
    )
    lines = drawn(Seen(told, []))
    assert (
        "412 tokens/s generated · 96 of prompts · TTFT p50 83 ms p99 1.3 s · step since 12.0 s"
        in lines
    )
    assert line_of(lines, "sequences").endswith("6 of 8 run, 2 wait")
    assert line_of(lines, "KV blocks").endswith("50 of 100, 7 more hold prefixes")
    assert line_of(lines, "slots  ").endswith("3 of 4, 3.0 MiB of 64 MiB")
    assert line_of(lines, "host").endswith("1 adapter, 1.0 MiB of 2.0 GiB; 1000 registered")
    assert line_of(lines, "slots [") == "slots [5*] [-] [?] [·] 2 on their way"
    bar = next(line for line in lines if line.startswith("KV blocks")).count("━")
    assert bar == 12  # of 24


def test_no_slot_is_torn_between_two_lines() -> None:
    told = status()
    told.limits.max_adapters = 64
    lines = drawn(Seen(told, []), width=80)
    assert [line.count("[·]") for line in lines if "·]" in line] == [18, 20, 20, 6]


def test_adapters_that_run_come_first_then_those_that_are_special() -> None:
    adapters = [
        adapter("a-idle"),
        adapter("b-canary", canary=adapters_pb2.Canary(version="f" * 64, weight=0.25)),
        adapter("c-leased", leases=2),
        adapter(
            "d-runs",
            state=DEVICE,
            num_bytes=9 << 20,
            max_rank=16,
            leases=3,
            policy=adapters_pb2.Policy(weight=2, max_running=4, pinned=True),
            older_versions=["v1", "v2"],
        ),
    ]
    batch = pb.Batch(
        adapters=[
            pb.BatchAdapter(adapter_id="d-runs", sequences=3),
            pb.BatchAdapter(adapter_id="", sequences=1),
        ],
        other_adapters=1,
        other_sequences=2,
    )
    lines = drawn(Seen(status(batch=batch), adapters), width=150)
    head = next(i for i, line in enumerate(lines) if line.startswith("adapter "))
    assert [" ".join(line.split()) for line in lines[head:]] == [
        "adapter running requests state version rank size policy canary note",
        "d-runs 3 3 device 01234567 16 9.0 MiB pinned, weight 2, max_running 4 2 older",
        "(base) 1",
        "c-leased 2 cold 01234567",
        "b-canary cold 01234567 ffffffff 25%",
        "a-idle cold 01234567",
        "2 sequences of 1 adapter outside your scope",
    ]


@pytest.mark.parametrize(("width", "height"), [(80, 24), (50, 20), (200, 60)])
def test_a_thousand_adapters_fit_into_a_terminal(width: int, height: int) -> None:
    adapters = [adapter(f"adapter-{i}", state=DEVICE, max_rank=8) for i in range(1000)]
    adapters[700].error = "steps with it fail: " + "x" * 500
    told = status(slots=[pb.Slot(adapter_ids=["a"])] * 4)
    lines = drawn(Seen(told, adapters, "UNAVAILABLE: " + "y" * 500, 3), width, height)
    assert len(lines) <= height
    assert any(line.startswith("adapter-700") for line in lines)  # what is wrong is not left out
    shown = sum(line.startswith("adapter-") for line in lines)
    assert f"and {1000 - shown} adapters more" in lines


def test_a_server_that_does_not_answer() -> None:
    lines = drawn(Seen(status(), [], "Connection refused", 4.2))
    assert lines[1] == "no answer for 4.2 s: Connection refused"


def test_texts_of_the_server_move_no_cursor() -> None:
    bad = "x\x1b[2J\r\n\x9b31m\u202ey[red]z[/red]"
    told = status(batch=pb.Batch(adapters=[pb.BatchAdapter(adapter_id=bad, sequences=1)]))
    told.base_model = bad
    lines = drawn(Seen(told, [adapter("a", error=bad)], bad, 1), width=160)
    text = "\n".join(lines)
    assert all(c.isprintable() for c in text.replace("\n", ""))
    assert text.count("y[red]z[/red]") == 4  # nor is it markup


def test_a_long_id_leaves_the_others_their_columns() -> None:
    lines = drawn(Seen(status(), [adapter("x" * 256), adapter("a")]), 100)
    assert line_of(lines, "a ") == "a cold 01234567"
    assert line_of(lines, "xxx").startswith("x" * 49 + "… cold")


def test_words_of_a_server_of_another_version() -> None:
    other = adapter("a", version="\x1b[2J4567", state=99)
    other.canary.version = "\x1b[2J"
    told = status()
    told.readiness.state = 99  # type: ignore[assignment]
    lines = drawn(Seen(told, [other]), 150)
    assert "\x1b" not in "".join(lines)
    assert " 99 " in lines[0]
    assert " 99 " in line_of(lines, "a ")
