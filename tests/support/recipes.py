"""Commands of the examples' READMEs, as written there."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
README, LOAD = ROOT / "examples" / "README.md", ROOT / "examples" / "load" / "README.md"
ADDRESS, HTTP_ADDRESS = "localhost:50051", "localhost:8000"


def named(adapters: Mapping[str, Path], root: Path) -> dict[str, Path]:
    """Give adapters the names that the recipes use, below `root`."""
    for name, source in zip(("pirate", "json"), adapters.values(), strict=False):
        shutil.copytree(source, root / name)
    return {path.name: path for path in root.iterdir()}


def commands(tool: str) -> list[str]:
    """The commands of the section that is called as the tool is, on either page."""
    pages = README.read_text() + LOAD.read_text()
    section = pages.split(f"\n## {tool}\n")[1].split("\n## ")[0]
    found = _commands(section)
    assert found, f"no commands of {tool}"
    assert all(command.startswith(f"{tool} ") for command in found), found
    return found


def data_files() -> list[str]:
    """The commands that write the files of calls which others read."""
    return _commands(
        LOAD.read_text().split("\n## Calls for several adapters\n")[1].split("\n## ")[0]
    )


def first_screen(tool: str) -> list[str]:
    """Those of the project's README, before its first section."""
    screen = (ROOT / "README.md").read_text().split("\n## ")[0]
    return [command for command in _commands(screen) if command.startswith(f"{tool} ")]


def _commands(text: str) -> list[str]:
    lines = "".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL)).splitlines()
    found: list[str] = []
    begun = ""
    for line in lines:
        if not begun and (not line or line.startswith("#")):
            continue
        begun += line + "\n"
        if _is_whole(begun):
            found.append(begun.strip())
            begun = ""
    assert not begun, f"unfinished: {begun}"
    return found


def programs(page: Path) -> list[str]:
    """The Python programs of a page that call over HTTP."""
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    return [block for block in blocks if HTTP_ADDRESS in block]


async def run(
    command: str, port: int, cwd: Path, address: str = ADDRESS, **environment: str
) -> tuple[int, str]:
    """The exit status and all output of a command, run by a shell with no more changed than the
    server's port, and the paths of what the repository has."""
    assert command.count(address) == 1, command
    process = await asyncio.create_subprocess_shell(
        rooted(command).replace(address, f"localhost:{port}"),
        cwd=cwd,
        env=os.environ | environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


def rooted(command: str) -> str:
    """Give the repository's paths in a command as they are from anywhere."""
    return command.replace("examples/load/", f"{ROOT}/examples/load/").replace(
        "PROTOS=$PWD/protos", f"PROTOS={ROOT}/protos"
    )


def _is_whole(command: str) -> bool:
    """False inside quotes and before a line that goes on."""
    try:
        shlex.split(command)
    except ValueError:
        return False
    return not command.endswith("\\\n")
