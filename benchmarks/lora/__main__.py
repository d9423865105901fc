"""Run what is not in the results yet, then write the plots and tables: `python -m benchmarks.lora`."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import sys
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

from . import data
from .specs import FULL, QUICK, Plan, Spec, compositions, pairs
from .store import Store, machine

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).parent / "results"
BASE = ROOT / ".models" / "SmolLM2-135M-Instruct"


def main(arguments: Sequence[str] | None = None) -> None:
    args = _parse(arguments)
    plan = QUICK if args.quick else FULL
    store = Store(args.results)
    left = [] if args.pages or args.study else _todo(plan, args, store)
    chosen = left[: args.limit or None]
    if chosen:
        print(f"{len(left)} runs to do, {len(chosen)} of them now", file=sys.stderr)
        _run_all(chosen, args, plan, store)
    if len(chosen) < len(left):
        sys.exit(f"{len(left) - len(chosen)} runs are left")
    if not args.pages and not args.only:
        _study(plan, args, store)
    if store.runs():
        _draw(plan, args, store)


def _draw(plan: Plan, args: argparse.Namespace, store: Store) -> None:
    from .page import write_page
    from .plots import draw_all

    draw_all(plan, store, args.docs)
    write_page(plan, store, args.docs / "lora.md")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lora", description=__doc__)
    parser.add_argument("--base", type=Path, default=BASE)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument(
        "--docs", type=Path, default=ROOT / "docs/results", help="where the plots and lora.md are"
    )
    parser.add_argument(
        "--work", type=Path, default=ROOT / ".bench" / "lora", help="data and adapters"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a few steps of everything; give other --results, --docs",
    )
    parser.add_argument(
        "--pages", action="store_true", help="only plots and tables, of what there is"
    )
    parser.add_argument(
        "--study", action="store_true", help="no runs: look at the weights of those that there are"
    )
    parser.add_argument("--only", default="", help="regular expression for whole names of runs")
    parser.add_argument("--limit", type=int, default=0, help="stop after so many runs")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, of one thread each")
    parser.add_argument("--dtype", default="bfloat16", help="of the base while training")
    args = parser.parse_args(arguments)
    if args.quick and args.results == RESULTS:
        parser.error("--quick needs --results and --docs of its own")
    return args


def _place(args: argparse.Namespace, plan: Plan) -> Any:
    from .runs import Place

    return Place(args.base, args.work, args.dtype, plan.train_rows, plan.test_rows)


def _todo(plan: Plan, args: argparse.Namespace, store: Store) -> list[Spec]:
    """Runs without a result, and those whose adapter is gone but still to be looked at."""
    place, specs = _place(args, plan), _specs(plan, args)
    wanted = {
        key
        for keys in _studies(plan, specs, store).values()
        for named in keys.values()
        for key in named
    }
    chosen = [s for s in specs if not args.only or re.fullmatch(args.only, s.key)]
    left = [
        s for s in chosen if not store.has(s) or (s.key in wanted and not _is_there(place, s.key))
    ]
    firsts = {s.after for s in left if s.after and not _is_there(place, s.after)}
    return [s for s in specs if s in left or s.key in firsts]


def _specs(plan: Plan, args: argparse.Namespace) -> list[Spec]:
    return plan.specs(*_sizes(plan, args.base))


def _is_there(place: Any, key: str) -> bool:
    return (place.adapter(key) / "adapter_config.json").exists()


def _studies(
    plan: Plan, specs: Sequence[Spec], store: Store
) -> dict[str, dict[str, dict[str, str]]]:
    """What is still to be looked at: study → name → key of a run → digest of its settings."""
    digests = {s.key: s.digest() for s in specs}
    keys: dict[str, dict[str, list[str]]] = {
        "overlap": {name: list(pair) for name, pair in pairs(plan).items()},
        "compositions": {name: [key for key, _ in mix] for name, mix in compositions(plan).items()},
    }
    return {
        study: {
            name: runs
            for name, named in of_study.items()
            if (runs := {key: digests[key] for key in named})
            != store.load(study).get(name, {}).get("runs")
        }
        for study, of_study in keys.items()
    }


def _sizes(plan: Plan, base: Path) -> tuple[int, int]:
    """Parameters of the plan's rank in q and v, and the width of bottlenecks with as many."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from .bottleneck import width_for

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base))
    budget = sum(
        plan.rank
        * (
            layer.get_submodule(f"self_attn.{kind}").in_features
            + layer.get_submodule(f"self_attn.{kind}").out_features
        )
        for layer in model.model.layers
        for kind in ("q_proj", "v_proj")
    )
    return budget, width_for(model, budget)


def _run_all(specs: list[Spec], args: argparse.Namespace, plan: Plan, store: Store) -> None:
    from .runs import run

    data.write(args.work / "data", plan.train_rows)
    place, about = _place(args, plan), machine(args.base)
    if args.jobs == 1:
        for spec in specs:
            _keep(spec, run(spec, place), store, about)
        return
    # threads that sleep while they wait: the runs share the cores with each other
    os.environ |= {"OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "0"}
    waiting, running = list(specs), {}
    with ProcessPoolExecutor(args.jobs, multiprocessing.get_context("spawn")) as pool:
        while waiting or running:
            while len(running) < args.jobs and (
                spec := _next(waiting, {s.key for s in running.values()})
            ):
                waiting.remove(spec)
                running[pool.submit(run, spec, place)] = spec
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                spec = running.pop(future)
                _keep(spec, future.result(), store, about)


def _next(waiting: list[Spec], running: set[str]) -> Spec | None:
    """The first one that does not build on a run that is not done."""
    blocked = running | {s.key for s in waiting}
    return next((s for s in waiting if s.after not in blocked), None)


def _keep(spec: Spec, result: dict[str, Any], store: Store, about: dict[str, Any]) -> None:
    store.add(spec.key, result, about)
    shown = result.get("diverged") or f"loss {result['test_loss']:.3f}, exact {result['exact']:.2f}"
    print(
        f"{time.strftime('%H:%M:%S')} {spec.key}: {shown} ({result['seconds']:.0f} s)",
        file=sys.stderr,
        flush=True,
    )


def _study(plan: Plan, args: argparse.Namespace, store: Store) -> None:
    """Look at everything whose runs are there and that was not looked at yet."""
    from .studies import composed, overlap

    place, specs = _place(args, plan), _specs(plan, args)
    trained = {s.key for s in specs if store.has(s) and _is_there(place, s.key)}
    for study, wanted in _studies(plan, specs, store).items():
        ready = {name: runs for name, runs in wanted.items() if runs.keys() <= trained}
        if ready:
            found = {"overlap": overlap, "compositions": composed}[study](plan, place, list(ready))
            known = store.load(study) | {
                name: {"runs": ready[name]} | value for name, value in found.items()
            }
            order = pairs(plan) if study == "overlap" else compositions(plan)
            store.save(study, {name: known[name] for name in order if name in known})


if __name__ == "__main__":
    main()
