"""Launches compiled side by side, in processes without a GPU: what is launched later finds them in
Triton's cache."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from multiprocessing.pool import Pool
from typing import Any

import torch

from .inspect import compile_launch, problems
from .launches import Launch

Job = tuple[Launch, int]
"""A launch, and the capability that it is compiled for."""


def workers(jobs: int) -> Pool:
    """As many processes as have work, forked: they have what this one has imported. Raises
    RuntimeError where this process has a GPU, with which its forks could not compile."""
    if torch.cuda.is_initialized():
        raise RuntimeError("this process has a GPU: forks of it could not compile")
    count = min(len(os.sched_getaffinity(0)), jobs)
    return multiprocessing.get_context("fork").Pool(
        count, initializer=torch.set_num_threads, initargs=(1,)
    )


def compile_all(jobs: Sequence[Job]) -> Iterator[dict[str, Any]]:
    """Rows as they are done: `kernels` (rows of Kernel), `cached`, `seconds`, and what is wrong, in
    `problems`."""
    with workers(len(jobs)) as pool:
        yield from pool.imap_unordered(_one, jobs)


def _one(job: Job) -> dict[str, Any]:
    launch, capability = job
    row: dict[str, Any] = {
        "name": f"{launch.name} sm_{capability}",
        "kernels": [],
        "cached": False,
        "seconds": 0.0,
    }
    try:
        kernels, row["cached"], row["seconds"] = compile_launch(launch, capability)
    except (
        Exception
    ) as error:  # one kernel that cannot be built is a finding, and the others are wanted
        return {**row, "problems": [f"{type(error).__name__}: {error}"[:500]]}
    return {
        **row,
        "kernels": [kernel.row() for kernel in kernels],
        "problems": list(problems(launch, kernels)),
    }
