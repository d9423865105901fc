"""Generate the Python code beside the .proto files: `make protos`.

`--check` fails if it is not current.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).parent
PACKAGE = Path("loramux/v1")


def generate(out: Path) -> None:
    sources = sorted(str(p.relative_to(ROOT)) for p in (ROOT / PACKAGE).glob("*.proto"))
    arguments = [
        f"-I{ROOT}",
        f"-I{files('grpc_tools') / '_proto'}",
        f"--python_out={out}",
        f"--pyi_out={out}",
        f"--grpc_python_out={out}",
        *sources,
    ]
    if protoc.main(["protoc", *arguments]):
        raise SystemExit("protoc failed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    with tempfile.TemporaryDirectory() as scratch:
        generate(Path(scratch))
        stale = []
        for fresh in sorted((Path(scratch) / PACKAGE).iterdir()):
            kept = ROOT / PACKAGE / fresh.name
            if check and (not kept.is_file() or kept.read_bytes() != fresh.read_bytes()):
                stale.append(fresh.name)
            elif not check:
                shutil.copy(fresh, kept)
    if stale:
        sys.exit(f"not current: {', '.join(stale)}; run make protos")


if __name__ == "__main__":
    main()
