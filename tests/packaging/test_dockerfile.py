"""What the Dockerfile says, held to the project: nothing here builds it (deploy/image/check.py looks
at an image that is built)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from lora_runtime import __version__

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "deploy/Dockerfile").read_text()
LINES = re.sub(r"\\\n\s*", "", re.sub(r"(?m)^#.*\n", "", TEXT)).splitlines()
STAGES = [line.split()[3] for line in LINES if line.startswith("FROM") and " AS " in line]


def instructions(name: str) -> Iterator[list[str]]:
    return (line.split()[1:] for line in LINES if line.startswith(f"{name} "))


def copied() -> set[str]:
    """What comes from the checkout."""
    return {
        source
        for words in instructions("COPY")
        if not words[0].startswith("--")
        for source in words[:-1]
    }


def test_what_it_copies_exists_and_is_all_that_a_builder_is_sent() -> None:
    assert all((ROOT / name).exists() for name in copied())
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignore, "what is not named stays out"
    assert {line[1:] for line in ignore if line.startswith("!")} == copied()


def test_stages_stand_on_the_two_bases_and_on_each_other() -> None:
    bases = [words[0] for words in instructions("FROM")]
    assert bases[0] == "${BUILD_BASE}"
    assert bases[-1] == "${BASE}"
    assert set(bases[1:-1]) <= set(STAGES)
    sources = {
        w.partition("=")[2] for words in instructions("COPY") for w in words if "--from" in w
    }
    assert sources <= set(STAGES)


@pytest.mark.parametrize("name", ["BASE", "BUILD_BASE"])
def test_a_bases_default_has_a_version(name: str) -> None:
    (default,) = [words[0] for words in instructions("ARG") if words[0].startswith(f"{name}=")]
    assert re.fullmatch(rf"{name}=python:3\.\d+(-slim)?", default)


def test_the_layers_of_the_image_are_the_stages_own() -> None:
    image = LINES[LINES.index("FROM ${BASE}") :]
    sources = [line.split()[1] for line in image if line.startswith("COPY")]
    assert sources == ["--from=torch", "--from=dependencies", "--from=loramux"]


def test_it_does_not_run_as_root_and_says_its_version() -> None:
    image = LINES[LINES.index("FROM ${BASE}") :]
    users = [line for line in image if line.startswith("USER ")]
    assert users == ["USER 10001"]
    assert image.index(users[0]) > max(i for i, line in enumerate(image) if line.startswith("RUN"))
    assert f'org.opencontainers.image.version="{__version__}"' in TEXT
    assert 'org.opencontainers.image.licenses="Apache-2.0"' in TEXT


def test_no_package_comes_from_elsewhere_than_pips_own_settings_say() -> None:
    assert not re.search(r"--(index-url|extra-index-url|trusted-host|find-links)", TEXT)
    assert not re.search(r"https?://", TEXT)
