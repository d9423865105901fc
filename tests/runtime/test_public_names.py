"""What `lora_runtime` offers: each name is there, written down, and all that the server takes; the
light ones are there without torch."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import lora_runtime
from lora_runtime import errors, training

ROOT = Path(lora_runtime.__file__).parents[1]
PUBLIC_MODULES = {"lora_runtime", "lora_runtime.training"}


def imports(path: Path) -> list[tuple[str, ast.alias]]:
    """(module, name) of every `from lora_runtime... import name`; of `import lora_runtime...` the
    module alone."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.ImportFrom(level=0, module=str(module)):
                found += [(module, alias) for alias in node.names]
            case ast.Import():
                found += [(alias.name, alias) for alias in node.names]
    return [
        (module, alias) for module, alias in found if module.partition(".")[0] == "lora_runtime"
    ]


def test_all_is_sorted_and_whole() -> None:
    names = lora_runtime.__all__
    # As ruff sorts: constants, classes, the rest.
    assert names == sorted(names, key=lambda n: (not n.isupper(), not n[0].isupper(), n))
    imported = {
        alias.asname or alias.name
        for node in ast.walk(ast.parse(Path(lora_runtime.__file__).read_text()))
        if isinstance(node, ast.ImportFrom) and node.level
        for alias in node.names
    }
    assert imported == set(names)  # what type checkers find
    assert set(names) <= set(dir(lora_runtime))


@pytest.mark.parametrize("name", lora_runtime.__all__)
def test_every_name_is_there_and_written_down(name: str) -> None:
    assert getattr(lora_runtime, name) is not None
    assert re.search(rf"`{name}\b", (ROOT / "docs/guide/engine-api.md").read_text())


def test_no_other_name_is_there() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        lora_runtime.nonsense  # type: ignore[attr-defined]  # noqa: B018
    from lora_runtime import base_model  # a module, not a name

    assert base_model.BaseModel is lora_runtime.BaseModel


@pytest.mark.parametrize(
    "statement",
    [
        "from lora_runtime import AdapterError, EngineConfig, Request",
        "import server.config",
        "import server.cli",
    ],
)
def test_light_names_come_without_torch(statement: str) -> None:
    check = f"import sys; {statement}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True, cwd=ROOT)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "server").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT))
)
def test_the_server_takes_public_names_alone(path: Path) -> None:
    for module, alias in imports(path):
        assert module in PUBLIC_MODULES, f"{path} imports from {module}"
        names = lora_runtime.__all__ if module == "lora_runtime" else training.__all__
        assert alias.name in (*names, module), (
            f"{path} imports {alias.name}, which {module} does not offer"
        )


def test_the_tree_of_errors_is_true() -> None:
    """The one at the head of `errors`."""

    def tree(kind: type[Any], depth: int = 0) -> list[str]:
        below = (c for c in kind.__subclasses__() if c.__module__ == errors.__name__)
        return [
            " " * 2 * depth + kind.__name__,
            *(line for c in below for line in tree(c, depth + 1)),
        ]

    assert errors.__doc__ is not None
    lines = [line.partition("  #")[0].rstrip() for line in errors.__doc__.splitlines()]
    start = lines.index("LoramuxError")
    assert lines[start : start + len(tree(errors.LoramuxError))] == tree(errors.LoramuxError)
