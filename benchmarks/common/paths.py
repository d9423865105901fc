"""Where the repository, the model, results and what is installed or made for benchmarks are."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
MODEL = ROOT / ".models/SmolLM2-135M-Instruct"
ARTIFACTS = ROOT / ".bench"
VENVS = ARTIFACTS / "venvs"
RESULTS = ROOT / "benchmarks/results"
