"""Survey every causal architecture of the installed transformers: `make architectures`.

    python -m benchmarks.architectures [--check] [KIND ...]

Writes the tables of docs/guide/architectures.md, or with `--check` compares them. Given kinds are
surveyed alone, and printed. The exit code is 1 for one that is served otherwise than PEFT, that
fails by something else than a refusal, and for a page that is not what is found.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from .findings import Finding, Outcome
from .page import PAGE, differences, renewed, version_of
from .processes import survey_all


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare the page, and write nothing")
    parser.add_argument("kinds", nargs="*", metavar="KIND", help="model_type; default: every one")
    args = parser.parse_args()
    findings = survey_all(args.kinds or kinds())
    if args.kinds:
        for finding in findings:
            print(finding.kind, *finding.to_json().values(), sep="\t")
    problems = wrong(findings)
    if not args.kinds:
        problems += check(findings) if args.check else _write(findings)
    sys.exit("\n".join(problems) or 0)


def kinds() -> list[str]:
    """Every `model_type` that AutoModelForCausalLM knows."""
    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def wrong(findings: Sequence[Finding]) -> list[str]:
    """Defects, a line each."""
    return [f"{f.kind}: {f.reason}" for f in findings if f.outcome is Outcome.WRONG]


def check(findings: Sequence[Finding]) -> list[str]:
    """Say if the page is not what these findings make it."""
    text = PAGE.read_text(encoding="utf-8")
    if (written := version_of(text)) != transformers.__version__:
        print(
            f"{PAGE.name} is about transformers {written}, installed is {transformers.__version__}: "
            "compared with nothing; `make architectures` renews it"
        )
        return []
    return differences(text, findings)


def _write(findings: Sequence[Finding]) -> list[str]:
    PAGE.write_text(renewed(PAGE.read_text(encoding="utf-8"), findings), encoding="utf-8")
    return []


if __name__ == "__main__":
    main()
