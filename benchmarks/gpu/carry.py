"""Gather what a borrowed machine lacks, into .bench/lease: `python -m benchmarks.gpu.carry` (make
gpu-carry).

- wheels/: the server's packages, put on the path there and not installed.
- base-1/, base-2/: a real base, SmolLM2-135M-Instruct as its 4-bit GGUF file, compressed and cut in two: what may be
carried at once is 64 MiB, and in bfloat16 it is 269 MB, in int8 135 MB. Its tokenizer and
configuration are with it
  as they are here: an older transformers makes others of the same file.
- expected.json: what the CPU answers with that base and the example adapters.
- triton-cache.tar.xz, where `make gpu-oldest` has made it: kernels that were compiled with that machine's Triton.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import lzma
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.gpu.carried import fits
from benchmarks.gpu.compiling.cache import NAME as CACHE

ROOT = Path(__file__).parents[2]
TARGET = ROOT / ".bench/lease"
MODEL = ROOT / ".models/SmolLM2-135M-Instruct"
PACKAGES = (
    "pydantic",
    "pydantic-core",
    "annotated-types",
    "typing-inspection",
    "typing-extensions",  # the server's settings
    "structlog",
    "grpcio",
    "protobuf",  # that machine's may be older than what our generated code asks for
    "grpcio-health-checking",
    "grpcio-reflection",
    "grpcio-status",
    "googleapis-common-protos",
    "gguf",  # reads the base's file; what it asks for beside numpy, PyYAML and tqdm is for files at URLs
)
"""In the versions that are installed here, which are those that were tested."""
PYTHON = "3.12"
_PLATFORMS = (
    "manylinux_2_28_x86_64",
    "manylinux_2_27_x86_64",
    "manylinux_2_17_x86_64",
    "manylinux2014_x86_64",
    "manylinux_2_5_x86_64",
    "manylinux1_x86_64",
)
FIRST_PART = 34 << 20
"""Bytes: beside the repository (6 MiB), the wheels (11) and the cache (3) they stay below 64 MiB;
the rest fits beside the repository alone."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--python", default=PYTHON, help=f"that machine's; default: {PYTHON}")
    parser.add_argument("--target", type=Path, default=TARGET)
    options = parser.parse_args()
    if not (MODEL / "config.json").is_file():
        parser.error(f"no base model in {MODEL}: make base")
    wheels(options.target / "wheels", options.python)
    base(options.target)
    expected(options.target / "expected.json")
    _tell(options.target)


def wheels(target: Path, python: str) -> None:
    """Download them, unless all are there for this Python and in these versions; what else is there
    is removed."""
    wanted = {name: importlib.metadata.version(name) for name in PACKAGES}
    target.mkdir(parents=True, exist_ok=True)
    there = {_distribution(path): path for path in target.glob("*.whl")}
    versions = {(_normal(name), version) for name, version in wanted.items()}
    if set(there) == versions and all(fits(path, python) for path in there.values()):
        return
    for path in there.values():
        path.unlink()
    platforms = [argument for platform in _PLATFORMS for argument in ("--platform", platform)]
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "download",
            "-q",
            "--no-deps",
            "--only-binary=:all:",
            "--python-version",
            python,
            "--implementation",
            "cp",
            *platforms,
            "-d",
            str(target),
            *(f"{n}=={v}" for n, v in wanted.items()),
        ],
        check=True,
    )


def _distribution(wheel: Path) -> tuple[str, str]:
    name, version = wheel.name.split("-")[:2]
    return _normal(name), version


def _normal(name: str) -> str:
    return name.lower().replace("-", "_").replace(".", "_")


def base(target: Path) -> None:
    """Write the GGUF file's parts and of what they are, unless they are there, and the base's small
    files."""
    files = target / "base-1/files"
    shutil.rmtree(files, ignore_errors=True)
    shutil.copytree(MODEL, files, ignore=shutil.ignore_patterns("*.safetensors"))
    about = target / "base-1/base.json"
    if about.exists() and all(
        (target / part["path"]).exists() for part in json.loads(about.read_text())["parts"]
    ):
        return
    sys.path.insert(0, str(ROOT / "examples"))
    from fetch_base import find_gguf

    print("compressing the base (a minute, once)", flush=True)
    cut(find_gguf(), target)


def cut(source: Path, target: Path, first: int = FIRST_PART) -> None:
    """Compress `source` and write it as target/base-1/part and target/base-2/part, with
    target/base-1/base.json."""
    content = source.read_bytes()
    packed = lzma.compress(content, preset=3)
    parts = []
    for name, part in (("base-1", packed[:first]), ("base-2", packed[first:])):
        (target / name).mkdir(parents=True, exist_ok=True)
        (target / name / "part").write_bytes(part)
        parts.append({"path": f"{name}/part", "sha256": hashlib.sha256(part).hexdigest()})
    about = {"name": source.name, "sha256": hashlib.sha256(content).hexdigest(), "parts": parts}
    (target / "base-1/base.json").write_text(json.dumps(about, indent=1) + "\n")


def expected(target: Path) -> None:
    """Write what the CPU answers, unless it is there for these adapters and questions."""
    from benchmarks.gpu.real_base import asked, on_this_cpu

    if target.exists() and json.loads(target.read_text())["asked"] == asked():
        return
    print("asking the CPU (half a minute, once)", flush=True)
    target.write_text(
        json.dumps({"asked": asked(), "answers": on_this_cpu(MODEL)}, indent=1) + "\n"
    )


def _tell(target: Path) -> None:
    first = [target / name for name in ("wheels", "base-1", "expected.json", CACHE)]
    for call, paths in (("first", first), ("second", [target / "base-2"])):
        there = [path for path in paths if path.exists()]
        size = sum(
            file.stat().st_size
            for path in there
            for file in ([path] if path.is_file() else path.rglob("*"))
        )
        names = " ".join(
            str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path) for path in there
        )
        print(f"with the {call} call: {names} ({size / 2**20:.1f} MiB)")
    if not (target / CACHE).exists():
        print(f"without {CACHE}: make gpu-oldest makes it; else the kernels are compiled there")
    print(
        "\nthere, from the repository's root, where a call carries at most 64 MiB with the repository's 6:\n"
        "  python3 -m benchmarks.gpu.lease --out RESULTS\n"
        "then, for the stages that need the whole base, with the second part beside the first:\n"
        "  python3 -m benchmarks.gpu.lease --out RESULTS --skip-done .bench/lease/lease.json"
    )


if __name__ == "__main__":
    main()
