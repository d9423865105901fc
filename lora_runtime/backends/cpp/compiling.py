"""The C++ program of a base, and the weights that its modules lose to it."""

from __future__ import annotations

from ...kernels.cpu.build import NoKernelsError, host_target
from ...kernels.cpu.memory import give_back_freed
from ...kernels.cpu.program import Program
from ...kernels.cpu.weights import PackedLinear
from ...model.frozen import FrozenModel
from .lowering import Lowering


class ProgramMismatchError(NoKernelsError):
    """Error for a program that is not usable, after the base's modules have lost their weights to
    it: load the base anew."""


def compile_program(base: FrozenModel, *, int8: bool) -> tuple[Program, dict[str, PackedLinear]]:
    """Turn the base into a program; gives it, and the weights that the modules have lost to it.

    Each weight is freed as it is packed; they are given by module. Raises NoKernelsError where the
    base has no program here, ProgramMismatchError where that was found too late to go on with the
    modules.
    """
    host_target()  # raises before anything is computed
    if base.quantised:
        raise NoKernelsError("the base's weights are quantised")
    lowering = Lowering(
        base.model,
        base.config,
        base.attention_calls,
        base.modules if base.takes_adapters else (),
        base.max_context,
        int8,
        base.max_added_tokens,
    )
    try:
        program = lowering.run()
    except Exception as problem:  # such as a module without what its kind should have
        if not lowering.freed:
            raise NoKernelsError(str(problem)) from problem
        raise ProgramMismatchError(str(problem)) from problem
    give_back_freed()
    return program, lowering.packed
