"""Renders the chart with its default values into deploy/kubernetes.yaml, for those without Helm.

python deploy/helm/render.py           # write it
python deploy/helm/render.py --check   # fail if it is not what the chart gives
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import helm_python

CHART = Path(__file__).parent / "loramux"
MANIFEST = Path(__file__).parents[1] / "kubernetes.yaml"
_HEAD = """\
# A server with TLS, bearer tokens and declared adapters: what deploy/helm/loramux gives with its default values
# (`make manifests`). What it expects:
#   claim loramux-models    base/ (config.json, safetensors, tokenizer) and adapters/* (PEFT directories)
#   Secret loramux-tls      tls.crt and tls.key for the Service's name, as cert-manager writes them
#   Secret loramux-tokens   tokens.yaml, made with `loramux token`; see docs/guide/security.md
"""
_LABELS_OF_HELM = r"\n +(app\.kubernetes\.io/managed-by|helm\.sh/chart): .*"
_FOR_HELM_ALONE = r"(NOTES\.txt|templates/tests/.*)$"


def render(
    values: dict[str, Any] | None = None, release: str = "loramux", namespace: str = "default"
) -> dict[str, str]:
    """Give the chart's files by their template's path. Raises helm_python.HelmError."""
    with helm_python.Chart.load(str(CHART)) as chart:
        return dict(chart.render(values or {}, name=release, namespace=namespace))


def manifest() -> str:
    """Make the text of deploy/kubernetes.yaml."""
    parts = [
        re.sub(r"\n\s*\n", "\n", text.strip().removeprefix("---").strip())
        for path, text in sorted(render().items())
        if text.strip() and not re.search(_FOR_HELM_ALONE, path)
    ]
    text = "".join(f"---\n{text}\n" for text in parts)
    return _HEAD + re.sub(_LABELS_OF_HELM, "", text)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--check", action="store_true", help="compare, and write nothing")
    text = manifest()
    if not parser.parse_args().check:
        MANIFEST.write_text(text)
    elif MANIFEST.read_text() != text:
        raise SystemExit(f"{MANIFEST} is not what the chart gives: make manifests")


if __name__ == "__main__":
    main()
