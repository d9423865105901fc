"""C++ backend: the whole step as one call of a C++ program, on x86-64 CPUs."""

from __future__ import annotations

from collections.abc import Mapping

from ...adapters.device import StagedAdapter
from ...config import BaseConfig
from ...errors import BaseModelError
from ...kernels.cpu.adapter import CpuAdapter
from ...kernels.cpu.build import NoKernelsError, host_target
from ...kernels.cpu.ops import sample_rows
from ...kernels.updates import ModuleDelta
from ...model.files import BaseFiles
from ...model.frozen import FrozenModel
from ...model.weights import BaseTensors
from ..backend import Backend, ModelRunner, RunnerSpec, UnusableError
from ..check import StepCheck
from ..torch.runner import TorchRunner
from .compiling import ProgramMismatchError, compile_program
from .runner import CppRunner


class CppBackend(Backend):
    """Backend on a C++ program, adapters packed into one table each.

    The program has the linear maps' weights; their modules have lost them.
    """

    shares_host_memory = True
    own_program = "the C++ kernels"

    @classmethod
    def wants(cls, files: BaseFiles) -> bool:
        return files.device.type == "cpu" and files.config.kernels == "auto"

    @classmethod
    def open(cls, files: BaseFiles) -> Backend:
        try:
            frozen = files.read()
            if not files.can_read_again:
                # What is wrong with its layers can be told before they are used up.
                check = StepCheck(frozen)
                check.run(TorchRunner(frozen, check.spec.num_blocks, check.spec.block_size))
            return cls(frozen, files.config)
        except ProgramMismatchError as error:
            files.forget()
            raise UnusableError(f"going on without the C++ kernels: {error}") from error
        except NoKernelsError as error:
            raise UnusableError(f"no C++ kernels, torch's are used: {error}") from error

    def __init__(self, frozen: FrozenModel, config: BaseConfig) -> None:
        """Compile the program.

        Raises NoKernelsError where the base has no program here, ProgramMismatchError where the
        base is used up by that.
        """
        int8 = config.weights == "int8"
        self.program, packed = compile_program(frozen, int8=int8)
        if config.compile == "elementwise":
            raise BaseModelError(
                "compile 'elementwise' needs kernels 'torch': the C++ program has its own norms"
            )
        super().__init__(
            frozen,
            BaseTensors(frozen.model, frozen.modules, frozen.dtype, packed, frozen.quantised),
        )
        self.names = dict.fromkeys(
            ("lora", "paged_attention", "linear", "sampling", "step"), f"cpp/{host_target()}"
        )
        self.rounds_weights = int8
        if int8:
            self.names["linear"] += "/int8"
        self.sample_rows = sample_rows
        self._rows = {name: i for i, name in enumerate(frozen.modules)}

    def staged(self, deltas: Mapping[str, ModuleDelta]) -> StagedAdapter:
        return CpuAdapter(deltas, self._rows)

    def make_runner(self, spec: RunnerSpec) -> ModelRunner:
        frozen = self.frozen
        return CppRunner(
            self.program,
            frozen.kv_shapes,
            spec.num_blocks,
            spec.block_size,
            frozen.vocab_size + frozen.max_added_tokens,
            frozen.forward_lock,
        )
