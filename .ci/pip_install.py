"""`pip install` with one line for each step: `pip_install.py LABEL ARGUMENTS...`, run by the Python
to install into.

On a terminal the line follows the downloads. Everything that pip says is kept in `pip.log` in the
environment, and printed where pip fails.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

LOG = Path(sys.prefix) / "pip.log"
TELLS_PROGRESS = (24, 1)
"""pip's first version with a progress report that programs can read."""


class Line:
    """One line of the terminal: written anew at each change; elsewhere only its beginning and its
    end are written."""

    def __init__(self, label: str) -> None:
        self._label = f"   {label}: "
        self._moves = sys.stdout.isatty()
        print(self._label, end="", flush=True)

    def show(self, text: str) -> None:
        if self._moves:
            width = shutil.get_terminal_size().columns - 1
            print(f"\r\033[K{(self._label + text)[:width]}", end="", flush=True)

    def end(self, text: str) -> None:
        print(f"\r\033[K{self._label}{text}" if self._moves else text, flush=True)


class Progress:
    """What pip's lines say."""

    def __init__(self) -> None:
        self.packages = 0
        self.warned = False
        self._name = ""
        self._file_bytes = 0
        self._done_bytes = 0

    @property
    def downloaded(self) -> str:
        return _megabytes(self._done_bytes + self._file_bytes)

    def read(self, line: str) -> str:
        """The state after `line`, or nothing where it is as before."""
        if found := re.fullmatch(r"\s*Progress (\d+) of (\d+)\s*", line):
            self._file_bytes = int(found[1])
            return f"{self._name} {_megabytes(int(found[1]))} of {_megabytes(int(found[2]))}"
        if found := re.match(r"\s*(?:Downloading|Using cached|Processing) (\S+)", line):
            self._done_bytes, self._file_bytes = self._done_bytes + self._file_bytes, 0
            self._name = found[1].rpartition("/")[2].split("-")[0]
            return self._name
        if line.startswith("Installing collected packages:"):
            self.packages = line.count(",") + 1
            return f"{self.downloaded} downloaded, unpacking {_packages(self.packages)}"
        if line.startswith("WARNING"):
            self.warned = True
            return line.strip() if "Retrying" in line else ""  # it explains a wait
        return ""


def main() -> int:
    label, *arguments = sys.argv[1:]
    line, progress, started = Line(label), Progress(), time.monotonic()
    said: list[str] = []
    status = 0
    for command in _commands(arguments):
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        ) as pip:
            assert pip.stdout is not None
            for text in pip.stdout:
                if state := progress.read(text):
                    line.show(state)
                if not text.lstrip().startswith("Progress "):
                    said.append(text)
        if status := pip.returncode:
            break
    with LOG.open("a") as log:
        log.writelines([f"\n== {label}\n", *said])
    if status:
        line.end(f"pip failed\n{''.join(said)}")
    else:
        line.end(_summary(progress, time.monotonic() - started))
    return status


def _commands(arguments: list[str]) -> Iterator[list[str]]:
    """pip itself first, where it is old: Python brings one, and each run of it would say so."""
    pip = [sys.executable, "-m", "pip", "install"]
    if tuple(map(int, version("pip").split(".")[:2])) < TELLS_PROGRESS:
        yield [*pip, "--quiet", "--disable-pip-version-check", "--upgrade", "pip"]
    yield [*pip, "--progress-bar", "raw", *arguments]


def _summary(progress: Progress, seconds: float) -> str:
    parts = [_packages(progress.packages) if progress.packages else "there already"]
    if progress.packages:
        parts.append(f"{progress.downloaded} downloaded")
    if progress.warned:
        parts.append(f"warnings of pip: {_shown(LOG)}")
    return f"{', '.join(parts)} ({seconds:.0f} s)"


def _packages(count: int) -> str:
    return "1 package" if count == 1 else f"{count} packages"


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.0f} MB" if count < 1e9 else f"{count / 1e9:.1f} GB"


def _shown(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


if __name__ == "__main__":
    sys.exit(main())
