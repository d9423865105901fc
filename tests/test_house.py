"""The house: every folder imports what its `__init__.py` says, arrows run downstairs, and nothing
runs in a circle."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import lora_runtime

ROOT = Path(lora_runtime.__file__).parents[1]
PACKAGES = ("lora_runtime", "server", "benchmarks")
PUBLIC = {"lora_runtime", "lora_runtime.training"}
"""All of the library that servers and benchmarks may import."""
INSIDE = ("benchmarks.cpu", "benchmarks.gpu", "benchmarks.lora", "benchmarks.scale")
"""But for those that measure what is inside."""


@cache
def modules() -> dict[str, Path]:
    """Files by dotted name; a folder's is that of its `__init__.py`."""
    found = {}
    for path in sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def folder_of(module: str) -> str:
    """The folder that a module is in; a folder is in itself."""
    return module if modules()[module].name == "__init__.py" else module.rpartition(".")[0]


@cache
def imports_of(module: str) -> frozenset[str]:
    """Modules of ours that it imports, inside functions and for type checkers too."""
    path = modules()[module]
    return frozenset(
        target
        for node in ast.walk(ast.parse(path.read_text()))
        for target in targets(module, node)
        if target in modules()
    )


def targets(module: str, node: ast.AST) -> Iterator[str]:
    """Names that an import statement of `module` means, in full."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        package = folder_of(module).split(".")
        parts = package[: len(package) - node.level + 1] if node.level else []
        source = ".".join([*parts, *filter(None, [node.module])])
        for alias in node.names:
            inner = f"{source}.{alias.name}"
            yield inner if inner in modules() else source


def said(folder: str, heading: str) -> list[str]:
    """The names behind `heading` in the docstring of a folder's `__init__.py`."""
    text = ast.get_docstring(ast.parse(modules()[folder].read_text())) or ""
    found = re.search(rf"^{heading}: ([^.]*(?:\.\w[^.]*)*)\.$", text, re.MULTILINE | re.DOTALL)
    assert found, f"{modules()[folder]} needs a line like '{heading}: errors, kernels.cpu.'"
    return [name for name in re.split(r"[,;\s]+", found[1]) if name != "nothing"]


FOLDERS = sorted({folder_of(m) for m in modules()} & modules().keys() - {"lora_runtime"})


def test_every_folder_is_a_package() -> None:
    bare = {folder_of(module) for module in modules()} - modules().keys()
    assert bare == {"benchmarks.gpu.oldest.hidden"}, "folders without an __init__.py"


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_imports_what_it_says(folder: str) -> None:
    package = folder.split(".")[0]
    allowed = {
        name if name in modules() else f"{package}.{name}" for name in said(folder, "May import")
    }
    wrong, used = set(), set()
    for module in (m for m in modules() if folder_of(m) == folder):
        for target in imports_of(module):
            room = {target, folder_of(target)} & allowed
            used |= room
            if not room and folder_of(target) != folder:
                wrong.add(f"{module} imports {target}")
    assert not wrong, f"{modules()[folder]} does not list it, or it should not be imported"
    assert used == allowed, f"it says more than it needs: {sorted(allowed - used)}"


def test_arrows_run_downstairs() -> None:
    floors = [line.split() for line in _floors().splitlines()]
    floor_of = {f"lora_runtime.{room}": i for i, rooms in enumerate(floors) for room in rooms}
    rooms = {room_of(m) for m in modules() if m.startswith("lora_runtime.")}
    assert rooms == floor_of.keys()
    wrong = []
    for module in (m for m in modules() if m.startswith("lora_runtime.")):
        for target in imports_of(module) - {"lora_runtime"}:
            here, there = room_of(module), room_of(target)
            if here != there and floor_of[there] <= floor_of[here]:
                wrong.append(f"{module} imports {target}")
    assert not wrong


def room_of(module: str) -> str:
    """A folder at the top of lora_runtime, or a file that lies loose there."""
    return ".".join(module.split(".")[:2])


def _floors() -> str:
    text = ast.get_docstring(ast.parse(modules()["lora_runtime"].read_text())) or ""
    return text.partition("from top to bottom:\n\n")[2].partition("\n\n")[0]


@pytest.mark.parametrize("package", PACKAGES)
def test_no_circle(package: str) -> None:
    own = [m for m in modules() if m.split(".")[0] == package]
    # A folder's `__init__.py` is run by each import from it: what that imports comes before, too.
    try:
        TopologicalSorter({m: imports_of(m) - {m, package} for m in own if m != package}).prepare()
    except CycleError as error:
        pytest.fail(f"a circle: {' -> '.join(error.args[1])}")


def test_no_deep_imports() -> None:
    outside = [m for m in modules() if not m.startswith(("lora_runtime", *INSIDE))]
    wrong = [
        f"{module} imports {target}"
        for module in outside
        for target in imports_of(module)
        if target.startswith("lora_runtime.") and not {target, folder_of(target)} & PUBLIC
    ]
    assert not wrong
