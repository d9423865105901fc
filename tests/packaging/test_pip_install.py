"""The line that stands for a run of pip."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SAID = """\
Collecting one>=1 (from two)
  Downloading one-1.0-py3-none-any.whl.metadata (2 kB)
  Downloading one-1.0-py3-none-any.whl (40.0 MB)
Progress 10000000 of 40000000
Progress 40000000 of 40000000
WARNING: something to look at
Processing ./files/two-2.0-py3-none-any.whl
Installing collected packages: one, two
Successfully installed one-1.0 two-2.0
"""


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """A directory whose `pip` is a module that says SAID, or fails where it is asked for `missing`."""
    (tmp_path / "pip.py").write_text(
        f"import sys\nprint({SAID!r})\nsys.exit('ERROR: no such package' if 'missing' in sys.argv else 0)\n"
    )
    (tmp_path / "pip-99.0.dist-info").mkdir()
    (tmp_path / "pip-99.0.dist-info/METADATA").write_text(
        "Metadata-Version: 2.1\nName: pip\nVersion: 99.0\n"
    )
    return tmp_path


def install(environment: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = (
        f"import runpy, sys; sys.prefix = {str(environment)!r}; "
        f"runpy.run_path({str(ROOT / '.ci/pip_install.py')!r}, run_name='__main__')"
    )
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env={"PYTHONPATH": str(environment)},
        cwd=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_step_is_a_line_and_what_pip_said_is_kept(environment: Path) -> None:
    done = install(environment, "things", "one", "two")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(
        "   things: 2 packages, 40 MB downloaded, warnings of pip: pip.log ("
    )
    assert done.stdout.count("\n") == 1
    assert "something to look at" in (environment / "pip.log").read_text()


def test_where_pip_fails_all_that_it_said_is_shown(environment: Path) -> None:
    done = install(environment, "things", "missing")
    assert done.returncode == 1
    assert "Downloading one-1.0-py3-none-any.whl (40.0 MB)" in done.stdout
    assert "ERROR: no such package" in done.stdout
