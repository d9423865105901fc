"""Kernels compiled for GPUs that are not there: they keep within limits, what does not is told,
caches travel."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu.compiling.cache import pack, unpack
from benchmarks.gpu.compiling.inspect import Kernel, problems
from benchmarks.gpu.compiling.launches import LoraLaunch, of_the_stages, of_the_table

ROOT = Path(__file__).parents[2]
PREFILL = next(
    launch for launch in of_the_table() if isinstance(launch, LoraLaunch) and not launch.decode
)
GOOD = [
    Kernel(PREFILL.name, 90, name, 120, 0, 16 << 10, 8, 10, 0, 5)
    for name in ("shrink_kernel", "expand_kernel")
]


def test_a_kernel_within_its_limits_is_good() -> None:
    assert list(problems(PREFILL, GOOD)) == []


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"shared": 100 << 10}, "bytes of shared memory"),
        ({"registers": 255}, "registers"),
        ({"spilled": 65}, "spilled"),
        ({"wgmma": 0}, "no wgmma"),
        ({"wide_loads": 0}, "no wide loads"),
        ({"capability": 80}, "10 wgmma"),
    ],
)
def test_what_does_not_hold_is_told(changed: dict[str, Any], told: str) -> None:
    wrong = [replace(GOOD[0], **changed), GOOD[1]]
    assert any(told in problem for problem in problems(PREFILL, wrong))


def test_wide_products_with_the_switch_on_are_told() -> None:
    narrow = replace(PREFILL, kind="mma")
    assert len([p for p in problems(narrow, GOOD) if "wgmma" in p]) == 2
    assert list(problems(PREFILL, GOOD[:1])) == [f"{PREFILL.name}: 1 kernels"]


def test_launches_have_names_of_their_own() -> None:
    for launches in (of_the_stages(), of_the_table()):
        assert len({launch.name for launch in launches}) == len(launches)


def test_a_cache_travels(tmp_path: Path) -> None:
    """Without what only the compiler needs; the lists of files name the new place."""
    kernel = tmp_path / "old/ABC"
    kernel.mkdir(parents=True)
    files = {f"k.{ending}": ending.encode() for ending in ("json", "cubin", "ptx", "ttgir", "llir")}
    for name, content in files.items():
        (kernel / name).write_bytes(content)
    (kernel / "__grp__k.json").write_text(
        json.dumps({"child_paths": {name: str(kernel / name) for name in files}})
    )
    packed = tmp_path / "cache.tar.xz"
    assert pack(tmp_path / "old", packed) == packed.stat().st_size
    assert unpack(packed, tmp_path / "new") == 1
    there = {path.name for path in (tmp_path / "new/ABC").iterdir()}
    assert there == {"k.json", "k.cubin", "k.ptx", "__grp__k.json"}
    listed = json.loads((tmp_path / "new/ABC/__grp__k.json").read_text())["child_paths"]
    assert listed["k.cubin"] == str(tmp_path / "new/ABC/k.cubin")
    assert (tmp_path / "new/ABC/k.cubin").read_bytes() == b"cubin"


def test_what_was_compiled_last_is_left_out_of_a_cache_that_is_too_large(tmp_path: Path) -> None:
    for age, name in enumerate(["newest", "older", "oldest"]):
        kernel = tmp_path / "cache" / name
        kernel.mkdir(parents=True)
        (kernel / "k.cubin").write_bytes(random.Random(age).randbytes(2 << 20))
        (kernel / "__grp__k.json").write_text(
            json.dumps({"child_paths": {"k.cubin": str(kernel / "k.cubin")}})
        )
        os.utime(kernel, (1000 - age, 1000 - age))
    packed = tmp_path / "cache.tar.xz"
    assert pack(tmp_path / "cache", packed, most=5 << 20) <= 5 << 20
    assert unpack(packed, tmp_path / "there") == 2
    assert {path.name for path in (tmp_path / "there").iterdir()} == {"oldest", "older"}
    assert pack(tmp_path / "nothing was compiled", packed) < 1000
    assert unpack(packed, tmp_path / "there") == 0


def test_prefill_is_compiled_for_both_kinds_of_products() -> None:
    """The narrow tiles too: they are a lease's way out where the wide ones are wrong."""
    prefill = {
        (launch.inputs, launch.outs, launch.dtype, launch.kind)
        for launch in of_the_stages()
        if isinstance(launch, LoraLaunch) and not launch.decode
    }
    wide, narrow = (
        {launch[:3] for launch in prefill if launch[3] == kind} for kind in ("wgmma", "mma")
    )
    assert wide == narrow


@pytest.mark.slow
def test_they_compile_for_real_gpus(tmp_path: Path) -> None:
    """A look at each kind of kernel for A100, L4 and H100; again from a cache that was packed and
    unpacked."""

    def compile_quick(cache: Path) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.gpu.compiling", "--quick"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            env={**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(cache)},
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr[-4000:]
        return done.stdout

    first = compile_quick(tmp_path / "one")
    assert "expand_kernel" in first
    pack(tmp_path / "one", tmp_path / "cache.tar.xz")
    unpack(tmp_path / "cache.tar.xz", tmp_path / "two")
    kernels = {path.parent.name for path in (tmp_path / "two").rglob("*.cubin")}
    assert sorted(compile_quick(tmp_path / "two").splitlines()) == sorted(first.splitlines())
    assert {
        path.parent.name for path in (tmp_path / "two").rglob("*.cubin")
    } == kernels  # none was compiled again
