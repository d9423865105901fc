"""`loramux health`: what a probe that runs a command is told, and what that costs."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from server.cli import app
from server.lifecycle.health import LIVE
from server.lifecycle.probe import main

from ..support.certificates import Authority
from ..support.servers import free_port, make_settings, running
from ..support.tokens import write_tokens

Ask = Callable[..., Awaitable[tuple[int, str]]]


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Ask:
    """The command: its exit status, and what it prints."""

    async def run(*arguments: str) -> tuple[int, str]:
        capsys.readouterr()  # what the server has said
        status = await asyncio.to_thread(main, arguments)
        out, err = capsys.readouterr()
        return status, out + err

    return run


async def test_live_while_it_loads_and_ready_then(tiny_base: Path, ask: Ask) -> None:
    settings = make_settings(tiny_base).model_copy(update={"health_port": free_port()})
    target = f"127.0.0.1:{settings.health_port}"
    async with running(settings, load=False) as served:
        assert await ask("--target", target, f"--{LIVE}") == (0, "live\n")
        assert await ask("--target", target) == (1, f"not ready: {target} says NOT_SERVING\n")
        await served.app.load()
        assert await ask("--target", target) == (0, "ready\n")


async def test_the_servers_own_variables_say_where(
    tiny_base: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(make_settings(tiny_base)) as served:
        monkeypatch.setenv("LORAMUX_PORT", served.target.rpartition(":")[2])
        assert await ask() == (0, "ready\n")
        monkeypatch.setenv("LORAMUX_HEALTH_PORT", str(free_port()))
        status, said = await ask()
        assert status == 1
        assert "UNAVAILABLE" in said


@pytest.mark.parametrize("port", ["0", "65536", "121587"])
def test_a_port_that_is_none_is_not_another(capsys: pytest.CaptureFixture[str], port: str) -> None:
    """gRPC takes it modulo 65536."""
    with pytest.raises(SystemExit, match="2"):
        main(["--target", f"127.0.0.1:{port}"])
    assert f"{port} is no port" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--key", "--cert"])
async def test_half_of_a_certificate(ask: Ask, option: str) -> None:
    assert await ask(option, __file__) == (1, "not ready: --key and --cert go together\n")


async def test_mutual_tls_without_a_token(tiny_base: Path, tmp_path: Path, ask: Ask) -> None:
    authority = Authority(tmp_path, "authority")
    server, client = authority.issue("server"), authority.issue("client")
    settings = make_settings(
        tiny_base,
        tls_cert=server.cert,
        tls_key=server.key,
        tls_client_ca=authority.cert,
        auth_file=write_tokens(tmp_path / "tokens.yaml"),
    )
    async with running(settings) as served:
        here = ("--target", served.target)
        tls = ("--ca", str(authority.cert), "--cert", str(client.cert), "--key", str(client.key))
        assert await ask(*here, *tls) == (0, "ready\n")
        assert await ask(*here, *tls, "--server-name", "localhost") == (0, "ready\n")
        for wrong in ((), ("--ca", str(authority.cert)), (*tls, "--server-name", "elsewhere")):
            status, said = await ask(*here, *wrong)
            assert status == 1
            assert said.startswith(f"not ready: {served.target} cannot be asked: UNAVAILABLE")


async def test_who_does_not_answer_in_time_is_not_ready(ask: Ask) -> None:
    silent = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    async with silent:
        host, port = silent.sockets[0].getsockname()
        status, said = await ask("--target", f"{host}:{port}", "--timeout-s", "0.2")
    assert (status, said) == (1, f"not ready: {host}:{port} does not answer in 0.2 s\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--timeout-s", "soon"], "a number of seconds above 0, not 'soon'"),
        (["--lively"], "unrecognized arguments: --lively"),
    ],
)
def test_options_that_do_not_exist(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_a_file_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--ca", "/nowhere/ca.pem"]) == 1
    assert capsys.readouterr().err == "not ready: /nowhere/ca.pem: No such file or directory\n"


def test_nothing_large_is_imported() -> None:
    program = (
        "import sys; from server.entry import main; sys.argv[1:] = ['health', '--timeout-s', '0.1']\n"
        "try: main()\nexcept SystemExit as end: print(end.code)\n"
        "print(*sorted({'torch', 'transformers', 'google.protobuf', 'typer', 'lora_runtime'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
        env={"LORAMUX_TARGET": f"127.0.0.1:{free_port()}"},
    )
    assert done.stdout.split("\n") == ["1", "", ""]


def test_it_is_among_the_commands() -> None:
    assert "health" in CliRunner().invoke(app, ["--help"]).output
    assert CliRunner().invoke(app, ["health", "--ca", "/nowhere/ca.pem"]).exit_code == 1
