"""The one list of backends, and the choice among them."""

from __future__ import annotations

import logging

from ..model.files import BaseFiles
from .backend import Backend, UnusableError
from .cpp.backend import CppBackend
from .tensor_parallel.backend import TensorParallelBackend
from .torch.backend import TorchBackend
from .triton.backend import TritonBackend

log = logging.getLogger(__name__)

BACKENDS: tuple[type[Backend], ...] = (
    TensorParallelBackend,
    TritonBackend,
    CppBackend,
    TorchBackend,
)
"""Backends in the order in which they are asked: the first that the settings ask for and that can
run the base is taken; the last one takes every base."""


def open_base(files: BaseFiles) -> Backend:
    """Open the base, ready to step.

    Raises BaseModelError when it cannot be loaded, or not as the settings want it.
    """
    for backend in BACKENDS:
        if not backend.wants(files):
            continue
        try:
            return backend.open(files)
        except UnusableError as reason:
            log.warning("%s", reason)
    raise AssertionError(f"{BACKENDS[-1].__name__} has not taken the base")
