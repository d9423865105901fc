"""Writes Envoy's files for plain machines, out of the chart and values.yaml, into this folder.

python deploy/envoy/render.py           # write them
python deploy/envoy/render.py --check   # fail if they are not what the chart gives
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path
from typing import Any

try:
    import helm_python  # noqa: F401
    import yaml
except ModuleNotFoundError as error:
    sys.exit(f"{error}: pip install helm-python-sdk pyyaml")

HERE = Path(__file__).parent
_CHART = HERE.parent / "helm" / "render.py"
_HEAD = "# What deploy/helm/loramux gives with {values} (`make manifests`): README.md.\n"


def files(values: dict[str, Any]) -> dict[str, str]:
    """Give Envoy's files of a release with these values. Raises helm_python.HelmError."""
    spec = importlib.util.spec_from_file_location("chart_render", _CHART)
    assert spec is not None
    assert spec.loader is not None
    chart = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(chart)
    [text] = [
        text
        for path, text in chart.render(values).items()
        if path.endswith("templates/router/configmap.yaml")
    ]
    return dict(yaml.safe_load(text)["data"])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--check", action="store_true", help="compare, and write nothing")
    check = parser.parse_args().check
    values = HERE / "values.yaml"
    for name, body in files(yaml.safe_load(values.read_text())).items():
        file, text = HERE / name, _HEAD.format(values=values.name) + body
        if not check:
            file.write_text(text)
        elif not file.exists() or file.read_text() != text:
            raise SystemExit(f"{file} is not what the chart gives: make manifests")


if __name__ == "__main__":
    main()
