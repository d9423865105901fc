"""The token file and what each RPC needs, without a server."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from loramux.v1 import adapters_pb2, inference_pb2, server_pb2
from structlog.testing import capture_logs
from typer.testing import CliRunner

from server.auth.rules import RULES
from server.auth.tokens import ANYONE, AuthFileError, Caller, TokenFile, token_hash
from server.cli import app

from ..support.tokens import token_of, write_tokens

HASH = "a" * 64


def caller(*adapters: str, **fields: bool) -> Caller:
    return Caller(name="x", token_sha256=HASH, adapters=adapters, **fields)


def test_every_rpc_has_a_rule() -> None:
    files = (inference_pb2.DESCRIPTOR, adapters_pb2.DESCRIPTOR, server_pb2.DESCRIPTOR)
    services = [s for f in files for s in f.services_by_name.values()]
    assert set(RULES) == {f"/{s.full_name}/{m.name}" for s in services for m in s.methods}


@pytest.mark.parametrize(
    ("patterns", "may", "may_not"),
    [
        (["a*"], ["a0", "a/b", "abc"], ["", "b", "A0", "*"]),
        (["base"], [""], ["base", "a0", "*"]),
        ([""], [""], ["a0"]),
        (["*"], ["", "a0", "base", "*"], []),
        (["?"], ["a", "?"], ["", "*", "ab"]),
        (["team-[ab]"], ["team-a"], ["team-c", ""]),
        ([], [], ["", "a0", "*"]),
    ],
    ids=str,
)
def test_scopes(patterns: list[str], may: list[str], may_not: list[str]) -> None:
    who = caller(*patterns)
    assert [a for a in (*may, *may_not) if who.may_use(a)] == may


def test_rules_look_at_every_adapter() -> None:
    generate, load = (
        RULES["/loramux.v1.Inference/Generate"],
        RULES["/loramux.v1.Adapters/LoadAdapter"],
    )
    who = caller("a*", "base", admin=True)
    both = [{"adapter_id": "a0"}, {"adapter_id": "b"}]
    for fields, named in (
        ({}, ""),
        ({"adapter_id": "a0"}, ""),
        ({"adapter_id": "b"}, "'b'"),
        ({"adapters": both}, "'b'"),
        ({"adapters": both[:1]}, ""),
        ({"adapter_id": "b", "adapters": both[:1]}, "'b'"),
    ):
        refusal = generate.refusal(who, inference_pb2.GenerateRequest(**fields))
        assert (named in refusal) if named else not refusal, fields
    assert "base model" in generate.refusal(caller("a*"), inference_pb2.GenerateRequest())
    assert not generate.refusal(caller("a*"), inference_pb2.GenerateRequest(adapters=both[:1]))
    loads: list[tuple[dict[str, Any], str]] = [
        ({"path": "dir/a1"}, ""),
        ({"path": "a1", "adapter_id": "b"}, "'b'"),
        ({"path": "b/"}, "'b'"),
        ({"source": "hf://o/a1@main"}, ""),
        ({"source": "hf://a/b@main"}, "'b'"),
    ]
    for fields, named in loads:
        refusal = load.refusal(who, adapters_pb2.LoadAdapterRequest(**fields))
        assert (named in refusal) if named else not refusal, fields
    assert "admin" in load.refusal(caller("*"), adapters_pb2.LoadAdapterRequest(path="a1"))
    assert "read" in RULES["/loramux.v1.Server/GetServerInfo"].refusal(
        caller("*", read=False), None
    )


def test_a_token_has_no_more_than_its_share_by_default() -> None:
    who = caller("*")
    assert (who.shares, who.max_priority, who.max_waiting) == (False, 0, 0)
    rule = RULES["/loramux.v1.Inference/GenerateStream"]
    assert "priority 1" in rule.refusal(who, inference_pb2.GenerateRequest(priority=1))
    assert not rule.refusal(who, inference_pb2.GenerateRequest(priority=-1))
    assert not rule.refusal(ANYONE, inference_pb2.GenerateRequest(priority=10))
    assert not ANYONE.name  # a caller without a name has no share


def test_a_changed_file_counts(tmp_path: Path) -> None:
    now = [0.0]
    path = write_tokens(tmp_path / "tokens.yaml", old={"adapters": ["*"]})
    tokens: Any = TokenFile(path, clock=lambda: now[0])
    assert tokens.caller(token_of("old")).name == "old"

    write_tokens(tmp_path / "next.yaml", new={"adapters": []})
    os.replace(tmp_path / "next.yaml", path)
    assert tokens.caller(token_of("old"))  # looked at a moment ago
    now[0] += 1
    assert tokens.caller(token_of("old")) is None
    assert tokens.caller(token_of("new")).name == "new"

    path.write_text("- name: [")
    now[0] += 1
    assert tokens.caller(token_of("new")).name == "new"  # the last good one
    path.unlink()
    now[0] += 1
    assert tokens.caller(token_of("new")).name == "new"
    path.write_text("[]")
    now[0] += 1
    assert tokens.caller(token_of("new")) is None


def test_a_file_that_could_not_be_read_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    path = write_tokens(tmp_path / "tokens.yaml", old={"adapters": ["*"]})
    tokens = TokenFile(path, clock=lambda: now[0])
    write_tokens(path, new={"adapters": []})

    def fails(*args: object, **options: object) -> None:
        raise OSError("no more file descriptors")

    with capture_logs() as logs:
        with monkeypatch.context() as patch:
            patch.setattr(Path, "open", fails)
            for _ in range(3):
                now[0] += 1
                assert tokens.caller(token_of("old"))
        now[0] += 1
        assert tokens.caller(token_of("old")) is None  # the file has not changed since
    assert [line["log_level"] for line in logs] == ["error", "info"]  # the same error once


ENTRY = {"name": "x", "token_sha256": HASH, "adapters": []}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ([ENTRY | {"token_sha256": "secret-plain-token"}], "token_sha256"),
        ([ENTRY | {"token": "secret"}], "token"),
        ([ENTRY | {"admin": "secret"}], "admin"),
        ([ENTRY | {"adapters": "secret"}], "adapters"),
        ([ENTRY | {"shares": "secret"}], "shares"),
        ([ENTRY | {"max_priority": 11}], "max_priority"),
        ([ENTRY | {"max_priority": -1}], "max_priority"),
        ([ENTRY | {"max_waiting": "secret"}], "max_waiting"),
        ([ENTRY, ENTRY | {"name": "y"}], "same token_sha256"),
        (
            [ENTRY | {"lmx_secret": 1}, {"secret": 1}],
            "^tokens.yaml: 0: extra_forbidden; 1.name: missing",
        ),
        ([ENTRY, ENTRY | {"token_sha256": "b" * 64}], "same name"),
        ({"secret": 1}, "list"),
        (None, "list"),
    ],
    ids=str,
)
def test_bad_files_are_refused_without_their_content(
    tmp_path: Path, content: object, says: str
) -> None:
    path = tmp_path / "tokens.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(AuthFileError, match=says) as caught:
        TokenFile(path)
    assert "secret" not in str(caught.value)
    assert HASH not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("- name: secret\n  admin: true\n  admin: false", "twice, line 3"),
        ("- name: 2020-13-45", "ValueError"),
        ("- name: *secret", "not YAML, line 1"),
        ("[" * 50_000, "not YAML"),
        ("- " * 50_000, "not YAML"),
        ("- {secret: \0}", "not YAML"),
        ("#" * (5 << 20), "larger"),
    ],
    ids=["key", "date", "alias", "flow", "block", "null", "size"],
)
def test_odd_yaml_is_refused_without_its_content(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "tokens.yaml"
    path.write_text(text)
    with pytest.raises(AuthFileError, match=says) as caught:
        TokenFile(path)
    assert "secret" not in str(caught.value)


def test_what_is_no_yaml_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "tokens.yaml"
    path.write_text(f"- name: x\n  token_sha256: {HASH} : [")
    with pytest.raises(AuthFileError, match="line 2") as caught:
        TokenFile(path)
    assert HASH not in str(caught.value)
    with pytest.raises(AuthFileError, match="cannot be read"):
        TokenFile(tmp_path / "none.yaml")


def test_token_command(tmp_path: Path) -> None:
    args = ["token", 'ci: "bot"', "--adapter", "team-*", "--adapter", "base", "--admin"]
    args += ["--shares", "--max-priority", "3", "--max-waiting", "7"]
    first, second = (CliRunner().invoke(app, args) for _ in range(2))
    token = first.stderr.strip()
    assert len(token) > 40
    assert token != second.stderr.strip()
    path = tmp_path / "tokens.yaml"
    path.write_text(first.stdout)
    who: Any = TokenFile(path).caller(token)
    assert (who.name, who.adapters, who.admin, who.read) == (
        'ci: "bot"',
        ("team-*", "base"),
        True,
        True,
    )
    assert (who.shares, who.max_priority, who.max_waiting) == (True, 3, 7)
    assert token not in first.stdout
    assert token_hash(token) in first.stdout
