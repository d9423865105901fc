"""What an image weighs: its parts on disk, and its layers, also as a registry sends them."""

from __future__ import annotations

import json
import subprocess
import tarfile
import zlib
from typing import IO, Any, NamedTuple

from container import Engine

_PARTS = """
import json, os, sys, sysconfig
packages = sysconfig.get_path("purelib")
GROUPS = {"torch": ("torch", "functorch", "torchgen"), "CUDA and Triton": ("nvidia", "triton", "cuda"),
          "transformers": ("transformers",),
          "loramux": ("lora_runtime", "loramux", "loramux_server", "loramux_client")}
def weigh(path):
    total = 0
    for folder, folders, files in os.walk(path):
        total += sum(os.lstat(os.path.join(folder, name)).st_size for name in files)
        folders[:] = [one for one in folders if os.path.join(folder, one) not in ("/proc", "/sys", "/dev", "/tmp")]
    return total
parts = {group: sum(weigh(os.path.join(packages, one)) for one in names) for group, names in GROUPS.items()}
inside = weigh(sys.prefix)
parts["other packages"] = inside - sum(parts.values())
parts["the base image"] = weigh("/") - inside
print(json.dumps(parts))
"""


class Layer(NamedTuple):
    made_by: str
    size: int
    compressed: int
    """Bytes with gzip, as registries keep layers."""


def parts(engine: Engine, image: str) -> dict[str, int]:
    """Bytes of the files of each part."""
    sizes: dict[str, int] = json.loads(engine.once(image, "python", "-c", _PARTS))
    return {name: size for name, size in sizes.items() if size}


def layers(engine: Engine, image: str) -> list[Layer]:
    """The image's layers from the lowest on."""
    with subprocess.Popen(engine.line("save", image), stdout=subprocess.PIPE) as saved:
        assert saved.stdout is not None
        found = read_archive(saved.stdout)
        saved.stdout.read()  # what pads the archive: it ends by itself
    if saved.returncode:
        raise RuntimeError(f"{image} cannot be saved")
    return found


def read_archive(stream: IO[bytes]) -> list[Layer]:
    """Layers of what `docker save` or `podman save` write."""
    sizes: dict[str, tuple[int, int]] = {}
    texts: dict[str, Any] = {}
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            file = archive.extractfile(member) if member.isfile() else None
            if file is None:
                continue
            start = file.read(1)
            if start in (b"{", b"["):
                texts[member.name] = json.loads(start + file.read())
            else:
                sizes[member.name] = (member.size, _compressed(start, file))
    (manifest,) = texts["manifest.json"]
    made = [one for one in texts[manifest["Config"]]["history"] if not one.get("empty_layer")]
    return [
        Layer(about.get("created_by", ""), *sizes[name])
        for about, name in zip(made, manifest["Layers"], strict=True)
    ]


def _compressed(start: bytes, file: IO[bytes]) -> int:
    packer = zlib.compressobj(6, zlib.DEFLATED, 31)
    total = len(packer.compress(start))
    while block := file.read(1 << 20):
        total += len(packer.compress(block))
    return total + len(packer.flush())
