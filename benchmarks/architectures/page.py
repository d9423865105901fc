"""The page: docs/guide/architectures.md, whose table is what the survey found."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from difflib import unified_diff

import transformers

from benchmarks.common.paths import ROOT
from benchmarks.common.tables import filled, table

from .findings import Finding, Outcome

PAGE = ROOT / "docs/guide/architectures.md"
_HEADS = {
    Outcome.SERVED: ("architecture", "backends", "LoRA on", "but"),
    Outcome.REFUSED: ("architecture", "why"),
    Outcome.UNBUILDABLE: ("architecture", "why"),
}
_LONGEST = 150


def renewed(text: str, findings: Sequence[Finding]) -> str:
    """Renew the page's text."""
    return filled(text, _tables(findings))


def differences(text: str, findings: Sequence[Finding]) -> list[str]:
    """Say what the page has otherwise than the command would write it."""
    lines, now = text.splitlines(), renewed(text, findings).splitlines()
    said = f"{PAGE.name} is not what `make architectures` writes: run it, and commit what it wrote"
    changes = list(unified_diff(lines, now, "the page", "found", n=0, lineterm=""))
    return [said, *changes] if changes else []


def version_of(text: str) -> str:
    """Version of transformers that a page is about."""
    found = re.search(r"transformers (\d+\.\d+\.\d+)", text)
    return found[1] if found else ""


def _tables(findings: Sequence[Finding]) -> dict[str, str]:
    tables = {"counts": _counts(findings)}
    for outcome, head in _HEADS.items():
        rows = [_row(f) for f in findings if f.outcome is outcome]
        tables[outcome] = table(head, rows)
    return tables


def _counts(findings: Sequence[Finding]) -> str:
    counts = Counter(f.outcome for f in findings)
    both = sum("C++" in f.backends for f in findings)
    return (
        f"Of the {len(findings)} architectures of transformers {transformers.__version__}, "
        f"{counts[Outcome.SERVED]} are served, {both} of them by the C++ backend, "
        f"{counts[Outcome.REFUSED]} are refused, and of {counts[Outcome.UNBUILDABLE]} no tiny model "
        "could be made.\n"
    )


def _row(finding: Finding) -> tuple[str, ...]:
    name = f"`{finding.kind}`"
    if finding.outcome is not Outcome.SERVED:
        return name, shortened(finding.reason)
    targets = " ".join(f"`{target}`" for target in finding.targets)
    return name, ", ".join(finding.backends), targets, "; ".join(map(shortened, finding.notes))


def shortened(reason: str) -> str:
    """Shorten a message to a table's cell: one line, without figures that rounding decides."""
    line = " ".join(reason.split()).removesuffix(": not supported")
    line = re.sub(r" by \d\S+ \(limit \S+\) in [^,:]+", "", line)
    line = line if len(line) <= _LONGEST else line[:_LONGEST].rsplit(" ", 1)[0] + " …"
    return line.replace("|", "\\|").replace("<", "&lt;")
