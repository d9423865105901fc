"""Read by Python at its start where this directory is on PYTHONPATH: packages that a borrowed
machine lacks are not found, whatever is installed, but for those that were carried there."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec, PathFinder

HIDDEN = {
    "pydantic",
    "pydantic_core",
    "annotated_types",
    "typing_inspection",
    "dotenv",
    "structlog",
    "grpc_health",
    "grpc_reflection",
    "grpc_status",
    "google.api",
    "google.rpc",
    "pytest_asyncio",
    "cryptography",
    "compressed_tensors",
    "torchao",
    "gguf",
}
CARRIED = "loramux-wheels-"
"""In the names of directories with carried packages."""


class Finder(PathFinder):
    """PathFinder, less HIDDEN."""

    @classmethod
    def find_spec(cls, fullname, path=None, target=None) -> ModuleSpec | None:  # type: ignore[no-untyped-def]
        spec = super().find_spec(fullname, path, target)
        if spec is None or not any(
            fullname == name or fullname.startswith(f"{name}.") for name in HIDDEN
        ):
            return spec
        places = [spec.origin or "", *(spec.submodule_search_locations or ())]
        return spec if any(CARRIED in place for place in places) else None


sys.meta_path[sys.meta_path.index(PathFinder)] = Finder
