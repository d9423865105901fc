"""`loramux bench` against a server: what is counted over both fronts, and how it ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import Result

from server.bench.grpc_driver import GrpcDriver

from ...support.http_front import HttpHarness
from .conftest import Bench, report_of

pytestmark = pytest.mark.asyncio(loop_scope="module")
LENGTH = ("--max-new-tokens", "6", "--ignore-eos")


def way(served: HttpHarness, front: str) -> list[str]:
    if front == "grpc":
        return ["--target", served.server.target]
    return ["--http", served.url]


@pytest.mark.parametrize("front", ["grpc", "http"])
@pytest.mark.parametrize("kind", ["--stream", "--unary"])
async def test_all_tokens_of_all_calls_are_counted(
    served: HttpHarness, bench: Bench, front: str, kind: str
) -> None:
    adapters = ["-a", "", "-a", "a0", "-a", "a1", "--popularity", "round-robin"]
    report = report_of(
        await bench(*way(served, front), "-n", "12", "-c", "4", *LENGTH, *adapters, kind, "--json")
    )
    total = report["total"]
    assert total["statuses"] == {"OK": 12}
    assert total["tokens"] == 12 * 6
    assert total["latency_ms"]["count"] == 12
    assert {name: a["tokens"] for name, a in report["adapters"].items()} == {
        "base": 24,
        "a0": 24,
        "a1": 24,
    }
    if kind == "--unary":
        assert total["ttft_ms"] is None
        return
    assert total["ttft_ms"]["count"] == 12
    assert total["ttft_ms"]["max"] < total["latency_ms"]["max"]
    assert 0 < total["itl_ms"]["count"] <= 12 * 5  # what comes with the first token has no gap


@pytest.mark.parametrize("front", ["grpc", "http"])
async def test_both_fronts_ask_the_same(served: HttpHarness, bench: Bench, front: str) -> None:
    prompts = [("--prompt", "hello there"), ("--prompt", "hello there", "--chat")]
    counts = []
    for prompt in prompts:
        result = await bench(*way(served, front), "-n", "2", "-c", "1", *LENGTH, *prompt, "--json")
        counts.append(report_of(result)["total"]["prompt_tokens"] / 2)
    expected = await served.server.generate(prompt="hello there", max_new_tokens=1)
    assert counts[0] == expected.choices[0].usage.prompt_tokens
    assert counts[1] > counts[0]


@pytest.mark.parametrize("front", ["grpc", "http"])
async def test_prompts_are_found_in_the_prefix_cache_unless_told_not_to_be(
    served: HttpHarness, bench: Bench, front: str
) -> None:
    asked = [*way(served, front), "-n", "4", "-c", "1", *LENGTH, "--prompt", "dog " * 60, "--json"]
    assert report_of(await bench(*asked))["total"]["cached_tokens"] > 0
    assert report_of(await bench(*asked, "--no-prefix-cache"))["total"]["cached_tokens"] == 0


@pytest.mark.parametrize(
    ("front", "status"), [("grpc", "NOT_FOUND"), ("http", "HTTP 404")], ids=["grpc", "http"]
)
async def test_failed_calls_are_counted_by_status(
    served: HttpHarness, bench: Bench, front: str, status: str
) -> None:
    mixed = ("-n", "4", "-c", "2", *LENGTH, "-a", "a0", "-a", "no-such")
    result = await bench(
        *way(served, front), *mixed, "--popularity", "round-robin", "--json", code=3
    )
    report = report_of(result)
    assert report["total"]["statuses"] == {"OK": 2, status: 2}
    assert "no-such" in report["errors"][status]
    assert report["adapters"]["no-such"]["tokens"] == 0
    await bench(*way(served, front), "-n", "2", *LENGTH, "-a", "no-such", code=1)


@pytest.mark.parametrize("front", ["grpc", "http"])
async def test_all_adapters_of_the_server(served: HttpHarness, bench: Bench, front: str) -> None:
    result = await bench(
        *way(served, front),
        "-n",
        "6",
        *LENGTH,
        "--all-adapters",
        "--popularity",
        "round-robin",
        "--json",
    )
    assert report_of(result)["adapters"].keys() == {"a0", "a1", "a2"}


async def test_all_adapters_of_a_server_without(
    served: HttpHarness, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def none(driver: GrpcDriver) -> list[str]:
        return []

    monkeypatch.setattr(GrpcDriver, "adapters", none)
    result = await bench(*way(served, "grpc"), "--all-adapters", code=1)
    assert result.stderr.strip() == "the server has no adapter"


@pytest.mark.parametrize("front", ["grpc", "http"])
async def test_a_server_that_is_not_there(bench: Bench, front: str) -> None:
    where = ["--target", "127.0.0.1:1"] if front == "grpc" else ["--http", "http://127.0.0.1:1"]
    result = await bench(*where, code=1)
    assert "127.0.0.1:1" in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("front", ["grpc", "http"])
async def test_a_load_that_nobody_can_answer_is_not_sent(
    served: HttpHarness, bench: Bench, front: str
) -> None:
    load = ("-n", "100", "-a", "no-such", "--warmup", "2")
    result = await bench(*way(served, front), *load, code=1)
    assert "no call of the warm-up was answered" in result.stderr
    assert "no-such" in result.stderr


async def test_calls_that_take_too_long_are_counted(served: HttpHarness, bench: Bench) -> None:
    endless = ["-n", "1", "--max-new-tokens", "400", "--ignore-eos", "--timeout-s", "0.01"]
    over_grpc = await bench(*way(served, "grpc"), *endless, "--json", code=1)
    assert report_of(over_grpc)["total"]["statuses"] == {"DEADLINE_EXCEEDED": 1}
    over_http = await bench(*way(served, "http"), *endless, "--json", code=1)
    assert report_of(over_http)["total"]["statuses"] == {"TIMEOUT": 1}
    stats = await served.server.idle_stats()
    assert stats.running == 0


async def test_the_report_is_written_and_has_no_token(
    served: HttpHarness, bench: Bench, tmp_path: Path
) -> None:
    file = tmp_path / "report.json"
    where = way(served, "grpc")
    result = await bench(
        *where, "-n", "2", *LENGTH, "--out", str(file), env={"LORAMUX_TOKEN": "lmx_secret"}
    )
    assert "2 calls in" in result.stdout
    text = file.read_text()
    assert "lmx_secret" not in text
    report = json.loads(text)
    assert (report["target"], report["options"]["calls"]) == (served.server.target, 2)
    assert not report["cancelled"]


async def test_a_picture_is_drawn(served: HttpHarness, bench: Bench, tmp_path: Path) -> None:
    file = tmp_path / "load.png"
    # Ids are no markup of a terminal or a picture.
    adapters = ("-a", "", "-a", "a0", "-a", r"no[b]$\such$")
    load = ("-n", "12", "--rate", "500", "-c", "2")
    where = way(served, "grpc")
    result = await bench(*where, *load, *adapters, *LENGTH, "--plot", str(file), code=3)
    assert file.stat().st_size > 10_000
    assert r"no[b]$\such$" in result.stdout


@pytest.mark.parametrize(
    ("args", "why"),
    [
        (("--arrivals", "gamma"), "give --rate"),
        (("--cv", "2"), "give --rate"),
        (("--rate", "1", "--cv", "2"), "--arrivals gamma"),
        (("--rate", "0"), "more than 0"),
        (("--duration-s", "nan"), "more than 0"),
        (("--timeout-s", "0"), "more than 0"),
        (("--rate", "1", "--arrivals", "gamma", "--cv", "1e200"), "--cv must be from"),
        (("--rate", "1", "--arrivals", "gamma", "--cv", "1e-200"), "--cv must be from"),
        (("--zipf-exponent", "2"), "--popularity zipf"),
        (("-a", "x", "--all-adapters"), "not both"),
        (("--prompt", "x", "--prompts", "y"), "not both"),
        (("--prompts", "no-such.txt"), "No such file"),
        (("--weights", "no-such.txt"), "No such file"),
        (("--weights", "no-such.txt", "-a", "x"), "--weights says which"),
        (("--weights", "no-such.txt", "--all-adapters"), "--weights says which"),
        (("--http", "127.0.0.1:8000"), "must be a URL"),
        (("--http", "http://127.0.0.1:1", "--retry"), "not with --http"),
        (("--http", "http://127.0.0.1:1", "--tls"), "https://"),
        (("--plot", "load.txt"), ".png"),
        (("--plot", "no-such/load.png"), "no folder"),
        (("--out", "no-such/load.json"), "no folder"),
    ],
    ids=lambda value: "_".join(value) if isinstance(value, tuple) else "",
)
async def test_options_that_do_not_go_together(
    bench: Bench, args: tuple[str, ...], why: str
) -> None:
    assert why in flat(await bench(*args, code=2))


def flat(result: Result) -> str:
    """What was said, without the frame and the line ends of a terminal."""
    return " ".join(result.stderr.replace("│", " ").split())
