"""The recipes of the examples' README: of loramux bench, and, where they are installed, with the real
grpcurl, ghz and k6."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from google.protobuf import descriptor_pool, json_format, message_factory
from loramux.v1.inference_pb2 import GenerateRequest
from typer.testing import CliRunner

from server.cli import app

from ..support.certificates import Authority
from ..support.recipes import commands, data_files, first_screen, named, rooted, run
from ..support.servers import Harness, make_settings, running
from ..support.slow import slow_but
from ..support.tokens import token_of, write_tokens

ghz = pytest.mark.skipif(shutil.which("ghz") is None, reason="ghz is not on the PATH")
k6 = pytest.mark.skipif(shutil.which("k6") is None, reason="k6 is not on the PATH")
grpcurl = pytest.mark.skipif(shutil.which("grpcurl") is None, reason="grpcurl is not on the PATH")


@pytest.fixture(scope="module")
def roots(
    tiny_adapters: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    return named(tiny_adapters, tmp_path_factory.mktemp("named"))


@pytest_asyncio.fixture
async def plain(tiny_base: Path, roots: dict[str, Path]) -> AsyncIterator[Harness]:
    root = roots["pirate"].parent
    async with running(make_settings(tiny_base, roots, adapter_roots=[root])) as served:
        yield served


@pytest_asyncio.fixture
async def guarded(
    tiny_base: Path, roots: dict[str, Path], tmp_path: Path
) -> AsyncIterator[Harness]:
    """One that asks for a certificate and a token; what clients need is in `tmp_path`."""
    authority = Authority(tmp_path, "ca")
    pair = authority.issue("server")
    authority.issue("client")
    settings = make_settings(
        tiny_base,
        roots,
        tls_cert=pair.cert,
        tls_key=pair.key,
        tls_client_ca=authority.cert,
        auth_file=write_tokens(tmp_path / "tokens.yaml", user={"adapters": ["*"]}),
    )
    async with running(settings) as served:
        yield served


def test_the_recipes_are_read_whole() -> None:
    assert len(first_screen("ghz")) == 1
    by_tool = {tool: commands(tool) for tool in ("grpcurl", "ghz")}
    assert {"--async", "--duration-stop", "-c", "-n"} <= set(" ".join(by_tool["ghz"]).split())
    assert any("GenerateStream" in command for command in by_tool["ghz"])
    for tool, plain in (("grpcurl", " -plaintext "), ("ghz", " --insecure ")):
        assert [command for command in by_tool[tool] if plain not in command], tool


def test_what_recipes_send_is_a_message() -> None:
    """Also where the tools are not installed."""
    seen = set()
    for command in [*commands("grpcurl"), *commands("ghz"), *first_screen("ghz")]:
        words = shlex.split(command.replace("\\\n", " "))
        for flag in {"-d", "--data"}.intersection(words):
            data = json.loads(re.sub(r"{{.*}}", "", words[words.index(flag) + 1]))
            (method,) = (word for word in words if re.fullmatch(r"[\w.]+/\w+", word))
            kind = descriptor_pool.Default().FindMethodByName(method.replace("/", ".")).input_type
            for one in data if isinstance(data, list) else [data]:
                json_format.ParseDict(one, message_factory.GetMessageClass(kind)())
            seen.add(method)
    assert {"loramux.v1.Inference/Generate", "loramux.v1.Adapters/SetPolicy"} < seen


def calls_by_status(summary: str) -> dict[str, int]:
    table = summary.partition("Status code distribution:")[2].partition("Error distribution:")[0]
    return {status: int(n) for status, n in re.findall(r"\[(\w+)\]\s+(\d+) responses", table)}


def assert_all_ok(command: str, status: int, output: str) -> None:
    counted = re.search(r"Count:\s+(\d+)", output)
    assert status == 0, output
    assert counted is not None, output
    assert calls_by_status(output) == {"OK": int(counted[1])}, output
    asked = re.search(r" -n (\d+) ", command)
    assert int(counted[1]) == int(asked[1]) if asked else int(counted[1]) > 0


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    """A folder with the files of calls, as the recipes write them."""
    for command in data_files():
        subprocess.run(rooted(command), shell=True, check=True, cwd=tmp_path)
    return tmp_path


def test_calls_of_a_file_name_the_first_adapter_most(calls: Path) -> None:
    read = {name: json.loads((calls / f"{name}.json").read_text()) for name in ("mix", "zipf")}
    assert [one.get("adapter_id", "") for one in read["mix"]] == ["pirate", "json", ""]
    counts = Counter(one.get("adapter_id", "") for one in read["zipf"])
    assert [name for name, _ in counts.most_common()] == ["pirate", "json", ""]
    assert counts.total() == 1000
    for one in (*read["mix"], *read["zipf"]):
        json_format.ParseDict(one, GenerateRequest())


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("--zipf nan --count 3", "--zipf: a number"),
        ("--zipf=-1 --count 3", "--zipf: a number"),
        ("--zipf 1", "--zipf needs --count"),
        ("--count 0", "--count: at least 1"),
    ],
)
def test_a_file_of_calls_that_cannot_be_drawn(options: str, told: str) -> None:
    command = rooted(f"{sys.executable} examples/load/calls.py -a pirate {options}")
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr


@ghz
@pytest.mark.usefixtures("calls")
@pytest.mark.parametrize(
    "command", [c for c in [*commands("ghz"), *first_screen("ghz")] if "--insecure" in c]
)
async def test_ghz(plain: Harness, tmp_path: Path, command: str) -> None:
    assert_all_ok(command, *await run(command, plain.app.port, tmp_path))


@ghz
@pytest.mark.parametrize("command", [c for c in commands("ghz") if "--insecure" not in c])
async def test_ghz_with_tls_and_a_token(guarded: Harness, tmp_path: Path, command: str) -> None:
    port, token = guarded.app.port, token_of("user")
    assert_all_ok(command, *await run(command, port, tmp_path, LORAMUX_TOKEN=token))
    status, output = await run(command, port, tmp_path, LORAMUX_TOKEN="wrong")
    assert status != 0, output
    # Refused at reflection already.
    assert "valid bearer token" in output


def k6_ends(output: str) -> tuple[int, int]:
    """Streams that ended OK, and all that ended."""
    counts = [
        int(found[1]) if (found := re.search(rf"{name}\S*:\s+(\d+)", output)) else 0
        for name in (r"\{ status:OK \}\.", r"streams\.")
    ]
    return counts[0], counts[1]


@k6
@pytest.mark.parametrize("command", [c for c in commands("k6") if "CA=" not in c])
async def test_k6(plain: Harness, tmp_path: Path, command: str) -> None:
    status, output = await run(command, plain.app.port, tmp_path)
    assert status == 0, output
    ok, ended = k6_ends(output)
    assert ok == ended > 0, output
    assert "{ adapter:" in output


@k6
@pytest.mark.parametrize("command", [c for c in commands("k6") if "CA=" in c])
async def test_k6_with_tls_and_a_token(
    tiny_base: Path, roots: dict[str, Path], tmp_path: Path, command: str
) -> None:
    authority = Authority(tmp_path, "ca")
    pair = authority.issue("server")
    tokens = write_tokens(tmp_path / "tokens.yaml", user={"adapters": ["*"]})
    settings = make_settings(
        tiny_base, roots, tls_cert=pair.cert, tls_key=pair.key, auth_file=tokens
    )
    command = command.replace("CA=ca.pem", f"CA={tmp_path}/ca.pem")
    async with running(settings) as served:
        status, output = await run(
            command, served.app.port, tmp_path, LORAMUX_TOKEN=token_of("user")
        )
        assert status == 0, output
        assert k6_ends(output) == (20, 20), output


@pytest.mark.parametrize(
    "command",
    slow_but(
        [c for c in commands("loramux bench") if "--rate" not in c], commands("loramux bench")
    ),
)
async def test_loramux_bench(plain: Harness, command: str) -> None:
    words = [*shlex.split(command)[1:], "--json", "--target", plain.target]
    ran = await asyncio.to_thread(CliRunner().invoke, app, words)
    assert ran.exit_code == 0, ran.output
    asked = int(words[words.index("-n") + 1])
    assert json.loads(ran.stdout)["total"]["statuses"] == {"OK": asked}


@grpcurl
async def test_grpcurl(plain: Harness, tmp_path: Path) -> None:
    """In their order: the later ones need what the earlier ones did."""
    for command in commands("grpcurl"):
        if "-plaintext" in command:
            status, output = await run(command, plain.app.port, tmp_path)
            assert status == 0, f"{command}\n{output}"
    listed = {adapter.adapter_id for adapter in plain.app.engine.list_adapters()}
    assert listed == {"pirate", "json", "pirate-2"}


@grpcurl
@pytest.mark.parametrize("command", [c for c in commands("grpcurl") if "-plaintext" not in c])
async def test_grpcurl_with_tls_and_a_token(guarded: Harness, tmp_path: Path, command: str) -> None:
    port = guarded.app.port
    status, output = await run(command, port, tmp_path, LORAMUX_TOKEN=token_of("user"))
    assert status == 0, output
    assert {one["adapter_id"] for one in json.loads(output)["adapters"]} == {"pirate", "json"}
    status, output = await run(command, port, tmp_path, LORAMUX_TOKEN="wrong")
    assert status != 0, output


@grpcurl
async def test_grpcurl_describes_what_it_is_asked(plain: Harness, tmp_path: Path) -> None:
    for symbol, said in {
        "loramux.v1.Inference": "is a service",
        "loramux.v1.Inference.Generate": "is a method",
        "loramux.v1.GenerateRequest": "is a message",
        "loramux.v1.GenerateRequest.prompt": "is a field",
        "loramux.v1.FinishReason": "is an enum",
        "google.rpc.RetryInfo": "is a message",
        "grpc.reflection.v1.ServerReflection.ServerReflectionInfo": "is a method",
    }.items():
        command = f"grpcurl -plaintext localhost:50051 describe {symbol}"
        status, output = await run(command, plain.app.port, tmp_path)
        assert status == 0, output
        assert f"{symbol} {said}" in output
