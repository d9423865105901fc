"""A real Prometheus that scrapes servers, and what it answers."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCRAPE_S = 2
RATE_S = 5 * SCRAPE_S


@dataclass(frozen=True)
class Window:
    """A span of time, in seconds since 1970."""

    start: float
    end: float

    @property
    def step(self) -> float:
        return max(SCRAPE_S, (self.end - self.start) / 200)


@dataclass(frozen=True)
class Line:
    """One series of an answer."""

    labels: Mapping[str, str]
    times: list[float]
    values: list[float]


class Prometheus:
    """A running Prometheus."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/api/v1/"

    def range(self, query: str, window: Window) -> list[Line]:
        found = self._get(
            "query_range", query=query, start=window.start, end=window.end, step=window.step
        )
        return [_line(one["metric"], one["values"]) for one in found]

    def at(self, query: str, moment: float) -> list[Line]:
        found = self._get("query", query=query, time=moment)
        return [_line(one["metric"], [one["value"]]) for one in found]

    def _get(self, page: str, **asked: object) -> list[dict[str, Any]]:
        url = f"{self._url}{page}?{urllib.parse.urlencode(asked)}"
        with urllib.request.urlopen(url) as answer:
            return list(json.load(answer)["data"]["result"])


@contextmanager
def scraping(folder: Path, port: int, targets: Mapping[str, int]) -> Iterator[Prometheus]:
    """Scrape pods, by name with the ports of their metrics, labelled as the PodMonitor does it."""
    if (program := shutil.which("prometheus")) is None:
        raise SystemExit("prometheus is not there: Debian's package prometheus has it")
    scraped = [
        {
            "targets": [f"127.0.0.1:{metrics}"],
            "labels": {"namespace": "models", "job": "loramux", "pod": pod},
        }
        for pod, metrics in targets.items()
    ]
    config = {
        "global": {"scrape_interval": f"{SCRAPE_S}s", "scrape_timeout": f"{SCRAPE_S}s"},
        "scrape_configs": [{"job_name": "loramux", "static_configs": scraped}],
    }
    (folder / "prometheus.json").write_text(json.dumps(config))  # JSON is YAML
    command = [program, f"--config.file={folder / 'prometheus.json'}"]
    command += [f"--storage.tsdb.path={folder / 'tsdb'}", f"--web.listen-address=127.0.0.1:{port}"]
    with (folder / "prometheus.log").open("w") as log:
        running = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            yield Prometheus(port)
        finally:
            running.terminate()
            running.wait()


def _line(labels: dict[str, str], points: list[list[Any]]) -> Line:
    return Line(labels, [float(t) for t, _ in points], [float(v) for _, v in points])
