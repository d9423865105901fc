"""`loramux serve` and the demo's streams over gRPC, with carried packages where the machine has none."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from benchmarks.gpu.carried import ROOT, Answer, packages, read_answers, real_base
from benchmarks.gpu.session.context import Context, Unavailable

_AT_LEAST = {"grpcio", "protobuf"}
"""Generated code refuses older ones. An older version of another package may do; where not, the server says so."""
_RESERVE_S = 5.0


def run(context: Context) -> None:
    with packages(context.carried) as site:
        path = [str(directory) for directory in (site, ROOT, ROOT / "protos") if directory is not None]
        if lacking := lacking_on([*path, *sys.path]):
            raise Unavailable(f"neither installed nor carried for this Python: {', '.join(lacking)}")
        found = _demo(context, real_base(context.carried), path)
    if found is not None:
        _report(context, found)


def lacking_on(path: Sequence[str]) -> list[str]:
    """What loramux asks for and `path` does not have."""
    there: dict[str, str] = {}
    for distribution in importlib.metadata.distributions(path=list(path)):
        there.setdefault(canonicalize_name(distribution.name), distribution.version)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [text for text in project["dependencies"] if not _met(Requirement(text), there)]


def _met(requirement: Requirement, there: dict[str, str]) -> bool:
    name = canonicalize_name(requirement.name)
    return name in there and (name not in _AT_LEAST or there[name] in requirement.specifier)


def _demo(context: Context, base: Path, path: Sequence[str]) -> dict[str, Any] | None:
    """What the demo has written, None where it did not come to its end."""
    with tempfile.TemporaryDirectory() as scratch:
        told = Path(scratch) / "demo.json"
        command = [sys.executable, "examples/demo.py", "--base", base, "--device", context.device_name, "--json", told]
        # Before what is installed: an older grpcio of the machine's own would be taken else.
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(path)}
        try:
            limit = max(1.0, context.seconds_left() - _RESERVE_S)
            status = subprocess.run(command, cwd=ROOT, env=environment, timeout=limit, check=False).returncode
        except subprocess.TimeoutExpired:  # its server ends with this process's group
            context.emit("demo", error=f"not done after {limit:.0f} s", good=False)
            return None
        context.emit("demo", status=status, good=status == 0)
        return json.loads(told.read_text(encoding="utf-8")) if told.is_file() else None


def _report(context: Context, found: dict[str, Any]) -> None:
    expected = {answer.name: answer.text for answer in read_answers(context.carried)}
    for told in found["answers"]:
        name = Answer(told["adapter"], told["question"], (), "").name
        # Served in 16 bits, where near-ties may go the other way: the stage `demo` says which may.
        context.emit(name, same=told["text"] == expected[name] if expected else "not known", text=told["text"],
                     tokens=told["tokens"], first_token_ms=told["first"] * 1e3, total_s=told["total"],
                     good=bool(told["text"]))
    context.emit("streams", count=len(found["answers"]), start_s=found["start"], wall_s=found["wall"],
                 sum_s=sum(told["total"] for told in found["answers"]))
