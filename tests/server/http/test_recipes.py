"""What the READMEs show of HTTP: programs with OpenAI's client, and curl where it is installed."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from ...support.certificates import Authority
from ...support.recipes import HTTP_ADDRESS, README, ROOT, commands, named, programs, run
from ...support.servers import Harness, free_port, make_settings, running
from ...support.tokens import token_of, write_tokens

curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not on the PATH")
PAGES = {"README": ROOT / "README.md", "examples": README}


@pytest.fixture(scope="module")
def roots(
    tiny_adapters: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    return named(tiny_adapters, tmp_path_factory.mktemp("named"))


@pytest_asyncio.fixture
async def plain(tiny_base: Path, roots: dict[str, Path]) -> AsyncIterator[Harness]:
    root = roots["pirate"].parent
    made = make_settings(tiny_base, roots, adapter_roots=[root], http_port=free_port())
    async with running(made) as served:
        yield served


def port_of(served: Harness) -> int:
    assert served.app.http.server is not None
    return served.app.http.server.port


@pytest.mark.parametrize("page", ["README", "examples"])
async def test_programs_run(plain: Harness, page: str, capsys: pytest.CaptureFixture[str]) -> None:
    (program,) = programs(PAGES[page])
    text = program.replace(HTTP_ADDRESS, f"127.0.0.1:{port_of(plain)}")
    names: dict[str, Any] = {}
    await asyncio.to_thread(exec, compile(text, page, "exec"), names)
    printed = capsys.readouterr().out
    assert printed.strip()
    if page == "README":
        begun = re.findall(r"^(\S+): ", printed, re.MULTILINE)
        assert {"pirate", "json", plain.app.engine.base.name} <= set(begun)


@curl
async def test_curl(plain: Harness, tmp_path: Path) -> None:
    """In their order: the later ones need what the earlier ones did."""
    for command in commands("curl"):
        if "https:" not in command:
            status, output = await run(
                f"{command} --fail-with-body", port_of(plain), tmp_path, HTTP_ADDRESS
            )
            assert status == 0, f"{command}\n{output}"
    assert {one.adapter_id for one in plain.app.engine.list_adapters()} == {"pirate", "json"}


@curl
@pytest.mark.parametrize("command", [c for c in commands("curl") if "https:" in c])
async def test_curl_with_tls_and_a_token(
    tiny_base: Path, roots: dict[str, Path], tmp_path: Path, command: str
) -> None:
    authority = Authority(tmp_path, "ca")
    pair = authority.issue("server")
    authority.issue("client")
    made = make_settings(
        tiny_base,
        roots,
        tls_cert=pair.cert,
        tls_key=pair.key,
        tls_client_ca=authority.cert,
        auth_file=write_tokens(tmp_path / "tokens.yaml", user={"adapters": ["*"]}),
        http_port=free_port(),
    )
    async with running(made) as served:
        command = f"{command} --fail-with-body"
        for token, good in ((token_of("user"), True), ("wrong", False)):
            status, output = await run(
                command, port_of(served), tmp_path, HTTP_ADDRESS, LORAMUX_TOKEN=token
            )
            assert (status == 0) is good, output
            assert ('"pirate"' in output) is good
