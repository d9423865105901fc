"""Compilation of what lies between the matrix products: a norm's operations become one kernel.

The products stay the libraries', and the modules stay where hooks and adapters find them:
torch.compile takes each class's forward once, with a dynamic number of rows, and it is bound to its
modules.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch import nn

from ..errors import BaseModelError
from .modules import is_norm

log = logging.getLogger(__name__)

# Of transformers' activations those that are written as several operations; others are one kernel
# already.
_ACTIVATIONS = {
    "NewGELUActivation",
    "FastGELUActivation",
    "QuickGELUActivation",
    "ReLUSquaredActivation",
}


def compile_elementwise(model: nn.Module, run: Callable[[int], Any]) -> int:
    """Compile norms and activations; gives how many modules that are.

    `run(rows)` is one forward of so many rows. Compiles for one row and for many now, not in the
    first requests. Raises BaseModelError where torch.compile cannot, such as without a C++
    compiler, or where there is nothing to compile.
    """
    compiled: dict[type, Any] = {}
    modules = [module for module in model.modules() if _pays(module)]
    for module in modules:
        kind = type(module)
        if kind not in compiled:
            compiled[kind] = torch.compile(kind.forward, dynamic=True)
        module.forward = MethodType(compiled[kind], module)
    if not modules:
        raise BaseModelError(
            f"compile 'elementwise': {type(model).__name__} has no norms and activations of "
            "transformers' own"
        )
    try:
        for rows in (1, 2, 7):
            run(rows)
    except Exception as error:  # of dynamo, of inductor, or of the compiler behind it
        raise BaseModelError(f"compile 'elementwise' does not work here: {error}") from error
    log.info(
        "torch.compile: %d modules of the classes %s",
        len(modules),
        sorted(k.__name__ for k in compiled),
    )
    return len(modules)


def _pays(module: nn.Module) -> bool:
    """True if compiling pays: torch's own modules, such as LayerNorm, are one operation already."""
    own = type(module).__module__.startswith("transformers.")
    return own and (is_norm(module) or type(module).__name__ in _ACTIVATIONS)
