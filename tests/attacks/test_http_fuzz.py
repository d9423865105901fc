"""Requests made from the API's own description, right ones and wrong ones."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ..support.tokens import token_of
from .arena import Arena
from .neighbour import CLIENTS
from .server import ROOT, ServerProcess

pytestmark = pytest.mark.attacks

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "allow_header_conformance",
    "unsupported_method",
    "ignored_auth",
)


def test_what_the_description_allows(arena: Arena, fuzz_examples: int) -> None:
    """No 500, answers as described, nothing without a token."""

    def attack(server: ServerProcess) -> str:
        command = [
            *("nice", Path(sys.executable).with_name("schemathesis"), "run"),
            f"http://{server.http_target}/openapi.json",
            *("--header", f"Authorization: Bearer {token_of('operator')}"),
            *("--phases", "fuzzing", "--max-examples", fuzz_examples),
            "--generation-deterministic",
            *("--checks", ",".join(CHECKS), "--request-timeout", 30, "--no-color"),
        ]
        ended = subprocess.run(
            list(map(str, command)),
            cwd=ROOT,
            env={**os.environ, "SCHEMATHESIS_HOOKS": f"{CLIENTS}.described"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert not ended.returncode, ended.stdout[-6000:]
        return ended.stdout[-300:].strip().replace("\n", " ")

    arena.withstand("HTTP, requests made from the description", attack)
