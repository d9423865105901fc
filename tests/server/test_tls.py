"""TLS and mutual TLS, from gRPC channels and from the command line."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from loramux.v1 import server_pb2, server_pb2_grpc
from typer.testing import CliRunner

from server.cli import app
from server.load_settings import load
from server.process import serve
from server.sources import SettingsError
from server.tls import TLSError, server_credentials

from ..support.certificates import Authority, Pair
from ..support.servers import free_port, make_settings, refused, running
from ..support.tokens import token_of, write_tokens

Code = grpc.StatusCode
INFO = server_pb2.GetServerInfoRequest()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"), "authority")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"), "stranger")


async def call(target: str, credentials: grpc.ChannelCredentials | None) -> server_pb2.ServerInfo:
    open_channel = (
        grpc.aio.secure_channel(target, credentials)
        if credentials
        else grpc.aio.insecure_channel(target)
    )
    async with open_channel as channel:
        return await server_pb2_grpc.ServerStub(channel).GetServerInfo(INFO, timeout=10)


async def test_tls(tiny_base: Path, authority: Authority, stranger: Authority) -> None:
    pair = authority.issue("server")
    async with running(make_settings(tiny_base, tls_cert=pair.cert, tls_key=pair.key)) as served:
        trusting = grpc.ssl_channel_credentials(authority.cert.read_bytes())
        assert (await call(served.target, trusting)).device == "cpu"
        await refused(
            call(served.target, grpc.ssl_channel_credentials(stranger.cert.read_bytes())),
            Code.UNAVAILABLE,
        )
        await refused(call(served.target, None), Code.UNAVAILABLE)


async def test_renewed_certificates_need_no_restart(
    tiny_base: Path, authority: Authority, stranger: Authority, tmp_path: Path
) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"

    def install(pair: Pair) -> None:
        cert.write_bytes(pair.cert.read_bytes())
        key.write_bytes(pair.key.read_bytes())

    old, new = (grpc.ssl_channel_credentials(a.cert.read_bytes()) for a in (authority, stranger))
    install(authority.issue("server"))
    async with running(make_settings(tiny_base, tls_cert=cert, tls_key=key)) as served:
        await call(served.target, old)
        key.unlink()
        await call(served.target, old)
        install(stranger.issue("renewed"))
        await call(served.target, new)
        await refused(call(served.target, old), Code.UNAVAILABLE)


async def test_mutual_tls(tiny_base: Path, authority: Authority, stranger: Authority) -> None:
    pair, root, port = authority.issue("server"), authority.cert.read_bytes(), free_port()
    settings = make_settings(
        tiny_base,
        tls_cert=pair.cert,
        tls_key=pair.key,
        tls_client_ca=authority.cert,
        health_port=port,
    )
    async with running(settings) as served:
        for client, code in (
            (authority.issue("client"), None),
            (stranger.issue("intruder"), Code.UNAVAILABLE),
        ):
            credentials = grpc.ssl_channel_credentials(
                root, client.key.read_bytes(), client.cert.read_bytes()
            )
            if code is None:
                assert (await call(served.target, credentials)).device == "cpu"
            else:
                await refused(call(served.target, credentials), code)
        await refused(call(served.target, grpc.ssl_channel_credentials(root)), Code.UNAVAILABLE)
        # Probes reach health, and nothing else, without a certificate.
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            status = await health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest()
            )
            assert status.status == health_pb2.HealthCheckResponse.SERVING
        await refused(call(f"127.0.0.1:{port}", None), Code.UNIMPLEMENTED)


async def test_the_command_line(tiny_base: Path, authority: Authority, tmp_path: Path) -> None:
    pair, client = authority.issue("server"), authority.issue("client")
    tokens = write_tokens(tmp_path / "tokens.yaml", cli={"adapters": ["*"], "admin": True})
    (tmp_path / "token").write_text(token_of("cli") + "\n")
    settings = make_settings(
        tiny_base,
        tls_cert=pair.cert,
        tls_key=pair.key,
        tls_client_ca=authority.cert,
        auth_file=tokens,
    )
    async with running(settings) as served:
        reach = ["--target", served.target, "--ca", str(authority.cert), "--cert", str(client.cert)]
        whole = [*reach, "--key", str(client.key)]

        async def run(*args: str, code: int, **env: str) -> str:
            result = await asyncio.to_thread(CliRunner().invoke, app, list(args), env=env)
            assert result.exit_code == code, result.output
            return result.output

        await run("info", *whole, "--token-file", str(tmp_path / "token"), code=0)
        await run(
            "generate", "hi", *whole, "--max-new-tokens", "2", code=0, LORAMUX_TOKEN=token_of("cli")
        )
        await run(
            "adapters",
            "list",
            code=0,
            LORAMUX_TARGET=served.target,
            LORAMUX_CA=str(authority.cert),
            LORAMUX_CERT=str(client.cert),
            LORAMUX_KEY=str(client.key),
            LORAMUX_TOKEN_FILE=str(tmp_path / "token"),
        )
        assert "UNAUTHENTICATED" in await run("info", *whole, code=1)
        assert "needed together" in await run("info", *reach, code=1)
        assert "cannot be read" in await run("info", "--ca", str(tmp_path / "none"), code=1)
        assert "none" in await run("info", "--token-file", str(tmp_path / "none"), code=2)


def test_a_token_in_the_clear_is_warned_of() -> None:
    # Reserved for documentation: nothing answers there
    result = CliRunner().invoke(
        app, ["info", "--target", "example.invalid:1"], env={"LORAMUX_TOKEN": "t"}
    )
    assert result.exit_code == 1
    assert "without TLS" in result.stderr


@pytest.mark.parametrize(
    "given",
    [
        {"tls_cert": "c"},
        {"tls_key": "k"},
        {"tls_client_ca": "a"},
        {"tls_client_ca": "a", "tls_key": "k"},
    ],
    ids=str,
)
def test_half_of_tls_is_refused(given: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match=r"tls_cert and tls_key"):
        load({"base": "b", **given})


async def test_files_that_cannot_be_used_end_the_start(
    tiny_base: Path, authority: Authority, tmp_path: Path
) -> None:
    pair = authority.issue("server")
    assert await serve(make_settings(tiny_base, tls_cert=pair.cert, tls_key=tmp_path / "none")) == 1
    assert await serve(make_settings(tiny_base, auth_file=tmp_path / "none")) == 1


def test_an_error_names_the_files_that_do_not_go_together(
    authority: Authority, tmp_path: Path
) -> None:
    one, two, text = authority.issue("one"), authority.issue("two"), tmp_path / "text.pem"
    text.write_text("none")
    with pytest.raises(TLSError, match=r"one\.pem and .*two\.key are .*: key values mismatch"):
        server_credentials(one.cert, two.key, None)
    with pytest.raises(TLSError, match=r"text\.pem are .*: not pem"):
        server_credentials(one.cert, text, None)
    with pytest.raises(TLSError, match=r"text\.pem has no certificates"):
        server_credentials(one.cert, one.key, text)
    server_credentials(one.cert, one.key, authority.cert)
