"""deploy/image without an image: how archives, bills of materials and a Dockerfile's lines are read."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "deploy" / "image"


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(FOLDER)
    import check

    return check


def archive(layers: dict[str, bytes], config: str, history: list[dict[str, Any]]) -> io.BytesIO:
    files = layers | {
        config: json.dumps({"history": history}).encode(),
        "manifest.json": json.dumps([{"Config": config, "Layers": list(layers)}]).encode(),
    }
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    stream.seek(0)
    return stream


@pytest.mark.parametrize("names", [("1.tar", "2.tar", "c.json"), ("blobs/sha256/1", "2", "c")])
def test_layers_of_a_saved_image(check: ModuleType, names: tuple[str, str, str]) -> None:
    plain, random = b"\0" * 3_000_000, os.urandom(100_000)
    history: list[dict[str, Any]] = [
        {"created_by": "/bin/sh -c #(nop) ADD file in /"},
        {"created_by": "/bin/sh -c #(nop) USER 10001", "empty_layer": True},
        {"created_by": "/bin/sh -c useradd loramux"},
    ]
    stream = archive({names[0]: plain, names[1]: random}, names[2], history)
    lower, upper = check.weight.read_archive(stream)
    assert (lower.size, upper.size) == (len(plain), len(random))
    assert abs(lower.compressed - len(gzip.compress(plain, 6))) < 64
    assert upper.compressed > 100_000


def test_layers_are_named_by_what_made_them(check: ModuleType) -> None:
    podman = "/bin/sh -c #(nop) "
    assert check.layer_names(
        [
            f"{podman}ADD file:4bf in /",
            f"{podman}COPY dir:993 in /opt/loramux ",
            "/bin/sh -c useradd --uid 10001 loramux",
            f"{podman}COPY dir:161 in / ",
            f"{podman}COPY dir:c3a in / ",
        ]
    ) == ["the base image", "torch", "`useradd`", "the other packages", "loramux"]
    docker = "COPY /layer / # buildkit"
    assert check.layer_names(
        ["COPY x / # buildkit", docker, "RUN useradd # buildkit", docker, docker]
    ) == [
        "the base image",
        "torch",
        "`useradd`",
        "the other packages",
        "loramux",
    ]


def test_packages_by_licence_and_those_without_one(check: ModuleType) -> None:
    from licences import by_licence

    entries: dict[str, list[dict[str, Any]]] = {
        "one": [{"expression": "Apache-2.0 AND MIT"}],
        "two": [{"license": {"id": "MIT"}}, {"license": {"id": "BSD-3-Clause"}}],
        "three": [{"license": {"name": "A text\nof many lines"}}, {"license": {"id": "MIT"}}],
        "four": [{"license": {"name": "declared", "text": {"content": "A text\nof many lines"}}}],
        "six": [{"license": {"name": "License :: OSI Approved :: BSD License"}}],
        "five": [],
    }
    components = [
        {"name": name, "version": "1", "licenses": licenses} for name, licenses in entries.items()
    ]
    assert by_licence({"components": components}) == {
        "": ["five 1"],
        "A text": ["four 1"],
        "Apache-2.0 AND MIT": ["one 1"],
        "BSD License": ["six 1"],
        "BSD-3-Clause AND MIT": ["two 1"],
        "MIT": ["three 1"],
    }


def test_tables_go_to_their_places_of_a_page(check: ModuleType, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- table parts -->\nold\n<!-- end -->\nb\n")
    check.write(page, {"parts": check.table(("x", "y"), [("1|2", "3")])})
    assert page.read_text() == (
        "a\n<!-- table parts -->\n| x | y |\n| --- | --- |\n| 1\\|2 | 3 |\n<!-- end -->\nb\n"
    )
    with pytest.raises(SystemExit, match="no place for the table layers"):
        check.write(page, {"layers": ""})


def test_its_page_has_a_place_for_each_table() -> None:
    page = (FOLDER.parents[1] / "docs/results/image.md").read_text()
    assert all(f"<!-- table {name} -->" in page for name in ("parts", "layers", "licences"))
