"""Bench tools: small runs of each, with a local tokenizer and made-up prompts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .checks.harness import ADAPTERS
from .clients import PYTHON, VENV, Bench
from .server import BASE, MODEL

REQUESTS, PROMPT_TOKENS, NEW_TOKENS, AT_ONCE = 12, 24, 12, 4
_OFFLINE = {"HF_HUB_OFFLINE": "1"}


def _bench(
    command: Callable[[str, Path], list[str]],
    read: Callable[[Path], tuple[int, int, int]],
    environment: dict[str, str] = _OFFLINE,
    adapters: tuple[str, ...] = ADAPTERS,
) -> Bench:
    return Bench(command, read, environment, REQUESTS, REQUESTS * NEW_TOKENS, adapters)


def _vllm(backend: str, endpoint: str, *more: str) -> Bench:
    def command(url: str, scratch: Path) -> list[str]:
        return [
            *(str(PYTHON), str(Path(__file__).parent / "checks/vllm_bench.py")),
            *("--backend", backend, "--base-url", url, "--endpoint", endpoint),
            *("--model", MODEL.name, "--tokenizer", str(MODEL)),
            *("--served-model-name", ADAPTERS[0]),
            *("--lora-modules", *ADAPTERS, "--lora-assignment", "round-robin"),
            *("--dataset-name", "random", "--random-input-len", str(PROMPT_TOKENS)),
            *("--random-output-len", str(NEW_TOKENS), "--num-prompts", str(REQUESTS)),
            *("--max-concurrency", str(AT_ONCE), "--ignore-eos", "--temperature", "0"),
            *("--save-result", "--result-dir", str(scratch)),
            *("--result-filename", f"{backend}.json", "--disable-tqdm", *more),
        ]

    def read(scratch: Path) -> tuple[int, int, int]:
        told = _json(scratch / f"{backend}.json")
        return told["completed"], told["failed"], told["total_output_tokens"]

    return _bench(command, read)


def _guidellm(adapter: str, path: str) -> Bench:
    """Without an adapter it takes the first model of the server's list, which is the base."""
    model = f",model={adapter}" if adapter else ""

    def command(url: str, scratch: Path) -> list[str]:
        data = f"prompt_tokens={PROMPT_TOKENS},output_tokens={NEW_TOKENS}"
        return [
            *(str(VENV / "bin/guidellm"), "run", "--disable-console"),
            *("--backend", f"kind=openai_http,target={url},request_format={path}{model}"),
            *("--profile", f"kind=concurrent,streams={AT_ONCE}"),
            *("--constraint", f"kind=max_requests,count={REQUESTS}"),
            *("--data", f"kind=synthetic_text,{data}"),
            *("--tokenizer", f"kind=hf_auto,model={MODEL}"),
            *("--output", f"kind=json,path={scratch / 'guidellm.json'}"),
        ]

    return _bench(command, _guidellm_read, adapters=(adapter or BASE,))


def _guidellm_read(scratch: Path) -> tuple[int, int, int]:
    (bench,) = _json(scratch / "guidellm.json")["benchmarks"]
    totals = bench["metrics"]["request_totals"]
    tokens = bench["metrics"]["output_token_count"]["successful"]["total_sum"]
    return totals["successful"], totals["errored"] + totals["incomplete"], int(tokens)


def _aiperf_command(url: str, scratch: Path) -> list[str]:
    return [
        *(str(VENV / "bin/aiperf"), "profile", "--url", url, "--ui", "none", "--no-gpu-telemetry"),
        *("-m", ",".join(ADAPTERS), "--model-selection-strategy", "round-robin"),
        *("--endpoint-type", "chat", "--streaming", "--extra-inputs", "ignore_eos:true"),
        *("--use-server-token-count", "--per-chunk-usage", "--tokenizer", str(MODEL)),
        *("--isl", str(PROMPT_TOKENS), "--isl-stddev", "0"),
        *("--osl", str(NEW_TOKENS), "--osl-stddev", "0"),
        *("--num-dataset-entries", str(REQUESTS), "--request-count", str(REQUESTS)),
        *("--concurrency", str(AT_ONCE), "--workers-max", "1", "--random-seed", "1"),
        *("--output-artifact-dir", str(scratch / "aiperf")),
    ]


def _aiperf_read(scratch: Path) -> tuple[int, int, int]:
    told = _json(scratch / "aiperf/profile_export_aiperf.json")
    count = {name: int(told[name]["avg"]) for name in ("request_count", "total_output_tokens")}
    return count["request_count"], len(told["error_summary"]), count["total_output_tokens"]


def _json(path: Path) -> Any:
    return json.loads(path.read_text())


BENCHES = {
    "vllm bench serve, chats": _vllm("openai-chat", "/v1/chat/completions"),
    "vllm bench serve, completions": _vllm("openai", "/v1/completions", "--logprobs", "1"),
    "guidellm, chats": _guidellm("pirate", "/v1/chat/completions"),
    "guidellm, completions of the base": _guidellm("", "/v1/completions"),
    # Offline it looks for a directory's name in its cache of the hub.
    "aiperf, several models": _bench(_aiperf_command, _aiperf_read, environment={}),
}
