"""The table of docs/guide/security.md: each of its lines names tests that there are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "docs/guide/security.md").read_text()
LINES = GUIDE.split("| who | can | cannot | test |\n| --- | --- | --- | --- |\n")[1].split("\n\n")[
    0
]


@pytest.mark.parametrize("line", LINES.splitlines())
def test_its_tests_exist(line: str) -> None:
    *_, tests, end = line.split("|")
    assert not end
    names = re.findall(r"`([^`]+)`", tests)
    assert names
    for name in names:
        path, _, function = name.partition("::")
        source = (ROOT / "tests" / path).read_text()
        assert re.search(rf"^(async )?def {function or 'test_'}", source, re.MULTILINE)
