"""The one list of backends, and the choice among them."""

from __future__ import annotations

import logging

from ..errors import BaseModelError
from ..model.files import BaseFiles
from .backend import Backend, UnusableError
from .check import StepCheck
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
            opened = backend.open(files)
            _check(opened, files)
        except UnusableError as reason:
            log.warning("%s", reason)
        else:
            return opened
    raise AssertionError(f"{BACKENDS[-1].__name__} has not taken the base")


def _check(opened: Backend, files: BaseFiles) -> None:
    """Hold the backend's steps to transformers' own forward.

    Raises BaseModelError where they differ, UnusableError if another backend may do better.
    """
    try:
        check = StepCheck(
            opened.frozen, rounds_weights=opened.rounds_weights, interprets=opened.interprets
        )
        check.run(opened.make_runner(check.spec))
        opened.frozen.own = None  # needed no more
    except BaseModelError as error:
        opened.close()
        if not opened.own_program:
            raise
        files.forget()
        raise UnusableError(f"going on without {opened.own_program}: {error}") from error
    except BaseException:
        opened.close()
        raise
