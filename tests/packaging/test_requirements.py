"""pyproject.toml names what is imported, and .ci/lowest.txt the lowest versions that it allows."""

from __future__ import annotations

import ast
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
OWN = {"lora_runtime", "server", "tests", "benchmarks", "loramux", "loramux_client"}
SCRIPTS = {path.stem for path in (ROOT / "deploy").glob("*/*")}
ELSEWHERE = ROOT / "tests/clients/checks"
"""Runs where the clients are installed."""
WITH_TORCH = {"triton"}
"""Comes with the builds of torch that use it."""
NOT_LOWEST = {"torch", "setuptools", "loramux-client"}
"""Of the oldest torch `make gpu-oldest` tells; setuptools is there before anything is installed;
the client is the checkout's."""


@pytest.mark.parametrize(
    ("folder", "extras"),
    [
        ("lora_runtime", ("sources", "train", "demo", "quantised")),
        ("server", ("bench", "otel")),
        ("tests", ("sources", "train", "demo", "quantised", "dev")),
    ],
)
def test_what_is_imported_is_required(folder: str, extras: tuple[str, ...]) -> None:
    allowed = WITH_TORCH.union(named(PROJECT["dependencies"], *(EXTRAS[extra] for extra in extras)))
    allowed |= {needed for name in allowed for needed in needed_by(name)}
    of = packages_distributions()
    missing = {
        module
        for module in imported(ROOT / folder)
        if allowed.isdisjoint(map(canonicalize_name, of.get(module, [module])))
    }
    assert not missing


def test_the_client_stands_on_grpcio_and_protobuf() -> None:
    folder = ROOT / "clients/python"
    needed = tomllib.loads((folder / "pyproject.toml").read_text())["project"]["dependencies"]
    assert list(named(needed)) == ["grpcio", "protobuf"]
    assert set(needed) <= set(PROJECT["dependencies"]), "with the same bounds"
    # grpcio brings typing_extensions.
    assert imported(folder / "loramux_client") == {"grpc", "google", "typing_extensions"}


def test_every_requirement_is_there_once() -> None:
    for requirements in (PROJECT["dependencies"], *EXTRAS.values()):
        assert not [name for name, count in Counter(named(requirements)).items() if count > 1]


def test_the_lowest_versions_are_those_of_the_project() -> None:
    lines = (ROOT / ".ci/lowest.txt").read_text().splitlines()
    pins = [line.partition("==") for line in lines if line and not line.startswith("#")]
    lowest = {canonicalize_name(name): version for name, _, version in pins}
    assert len(lowest) == len(pins)
    wrong = {
        name: bound
        for requirement in map(Requirement, (*PROJECT["dependencies"], *EXTRAS["dev"]))
        if (name := canonicalize_name(requirement.name)) not in NOT_LOWEST
        for part in requirement.specifier
        if part.operator in (">=", "==")
        for bound in [part.version]
        if not f"{lowest.get(name)}.".startswith(f"{bound}.")
    }
    assert not wrong


def named(*requirements: list[str]) -> Iterator[str]:
    for one in requirements:
        yield from (canonicalize_name(Requirement(text).name) for text in one)


def needed_by(name: str) -> Iterator[str]:
    """What is always installed with a distribution."""
    try:
        texts = requires(name) or []
    except PackageNotFoundError:  # an extra that is not installed here
        return
    yield from named([text for text in texts if "extra" not in text])


@cache
def imported(folder: Path) -> frozenset[str]:
    """Names of packages of others that a folder's modules import, at their heads or inside."""
    return frozenset(
        name
        for path in folder.rglob("*.py")
        if ELSEWHERE not in path.parents
        for node in ast.walk(ast.parse(path.read_text()))
        for name in _names(node)
        if name not in sys.stdlib_module_names and name not in OWN | SCRIPTS
    )


def _names(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name.partition(".")[0] for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and not node.level:
        yield (node.module or "").partition(".")[0]
