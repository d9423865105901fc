"""Licences of an image's packages, as its bill of materials has them."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

from container import Engine

FILE = "/opt/loramux/sbom.json"


def licences(engine: Engine, image: str) -> dict[str, list[str]]:
    """Packages by licence; those without any under ""."""
    return by_licence(json.loads(engine.once(image, "cat", FILE)))


def by_licence(materials: dict[str, Any]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for package in materials["components"]:
        found[licence_of(package)].append(f"{package['name']} {package['version']}")
    return {licence: sorted(found[licence]) for licence in sorted(found, key=str.lower)}


def licence_of(package: dict[str, Any]) -> str:
    """A package's licence; of one that names several ways, the one that a program can read."""
    entries = package.get("licenses", [])
    for entry in entries:
        if "expression" in entry:
            return str(entry["expression"])
    named = [entry["license"] for entry in entries]
    ids = {one["id"] for one in named if "id" in one}
    return " AND ".join(sorted(ids)) or next(map(_words, named), "")


def _words(licence: dict[str, Any]) -> str:
    """What a package says where it has no identifier: a text's first line, or a classifier's end."""
    text: str = licence.get("text", {}).get("content") or licence["name"]
    return text.partition("\n")[0].rpartition(" :: ")[2]
