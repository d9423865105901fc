"""The interface of a backend: what every way to compute a step offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from ..adapters.device import DeviceAdapter, StagedAdapter
from ..adapters.peft.update import ModuleUpdate
from ..config import BaseConfig
from ..errors import BaseModelError, EngineFailedError
from ..kernels.sampling import SampleRow, sample_rows_reference
from ..kernels.sampling_batched import sample_rows_batched
from ..kernels.updates import ModuleDelta
from ..model.elementwise import compile_elementwise
from ..model.files import BaseFiles
from ..model.frozen import FrozenModel
from ..model.weights import BaseTensors
from ..scheduling.batch import StepBatch, StepOutput
from .staging import Stager
from .streams import work_streams


class UnusableError(Exception):
    """Error for a base that cannot run this way here; the next backend may take it.

    The message says what runs in its place.
    """


class ModelRunner(Protocol):
    """Runner of steps; owns the KV cache tensors and the forward.

    Used by the engine thread only.
    """

    def forward(self, batch: StepBatch) -> StepOutput: ...


@dataclass(frozen=True)
class RunnerSpec:
    """Settings that a runner is made with; all but the cache's size as in EngineConfig."""

    num_blocks: int
    block_size: int
    max_running: int = 64
    max_context: int = 0
    """Positions of a sequence; 0 is what base and blocks allow."""
    cuda_graphs: bool = True
    lora_overlap: bool = False


class Backend(ABC):
    """One way to compute the steps of one frozen model. `choose.py` has the list of them."""

    shares_host_memory = False
    """True if a placed adapter is its staged copy, and takes no memory beside it."""
    own_program = ""
    """What the backend computes with in the place of transformers' modules, which are used up by
    it: where that differs from them, another backend is taken."""

    @classmethod
    @abstractmethod
    def wants(cls, files: BaseFiles) -> bool:
        """True if settings and device ask for this backend.

        Raises BaseModelError for settings that its absence rules out.
        """

    @classmethod
    @abstractmethod
    def open(cls, files: BaseFiles) -> Backend:
        """Read the base and make it ready.

        Raises BaseModelError, and UnusableError if the next backend is to try.
        """

    def __init__(self, frozen: FrozenModel, weights: BaseTensors | None = None) -> None:
        """Take the frozen model, which uses the backend's kernels.

        `weights`: the base's for staging, where its modules do not have them.
        """
        self.frozen = frozen
        self.names = dict(frozen.context.kernels.names)
        """Implementations by op, as logs, metrics and GetServerInfo show them."""
        if frozen.quantised:
            self.names["linear"] = frozen.quantised_name
        self.weights = weights or BaseTensors(
            frozen.model, frozen.modules, frozen.dtype, {}, frozen.quantised
        )
        self.sample_rows: Callable[[Sequence[SampleRow]], list[int]] = (
            sample_rows_reference if frozen.device.type == "cpu" else sample_rows_batched
        )
        self.interprets = False
        """True if its kernels run in an interpreter, some hundred times slower."""
        self.rounds_weights = False
        """True if it computes with weights of fewer bits than the base's."""
        self._streams = work_streams(frozen.device)

    def stage(self, updates: Mapping[str, ModuleUpdate]) -> StagedAdapter:
        """Stage an adapter: its tensors as the forward reads them, in host memory.

        For any thread, beside steps. Raises AdapterError naming the module for what that cannot
        take.
        """
        with self._streams.own():
            deltas = Stager(self.weights, self.frozen.max_added_tokens).stage(updates)
        return self.staged(deltas)

    @abstractmethod
    def staged(self, deltas: Mapping[str, ModuleDelta]) -> StagedAdapter:
        """Lay out staged tensors in host memory: the second half of `stage`."""

    def place(self, staged: StagedAdapter) -> DeviceAdapter:
        """Put a staged adapter on the device. For any thread, beside steps; never waits.

        Raises AdapterCapacityError when the device has no room for it.
        """
        return staged

    def remove(self, adapter: DeviceAdapter) -> None:  # noqa: B027  (a default)
        """Take an adapter off the device; no step that is planned from now on has it."""

    def open_slots(self, slots: int) -> None:  # noqa: B027
        """Make room for `slots` adapters, before any is placed.

        Engines that share the base share its slots. Raises ValueError when there are slots already,
        and fewer.
        """

    def captures(self) -> bool:
        """True if decode steps can be CUDA graphs."""
        return False

    @abstractmethod
    def make_runner(self, spec: RunnerSpec) -> ModelRunner:
        """Make a KV cache, and the runner of steps on it."""

    def on_failure(self, call: Callable[[EngineFailedError], object]) -> None:  # noqa: B027
        """Call `call` once, on any thread, when a process that steps need beside this one ends."""

    def close(self) -> None:  # noqa: B027
        """End the processes that run beside this one. Idempotent; nothing is computed after it."""

    def compile_norms(self, config: BaseConfig) -> None:
        """Let torch.compile make one kernel of each norm and activation of the forward, if the
        settings say so."""
        if config.compile == "elementwise":
            compile_elementwise(self.frozen.model, self.frozen.plain_forward)
            self.names["elementwise"] = f"torch.compile/{self.frozen.device.type}"


def refuse_int8(config: BaseConfig) -> None:
    """Raise BaseModelError where the settings want what the C++ backend alone can do."""
    if config.weights == "int8":
        raise BaseModelError("weights int8 needs the C++ kernels, which this base cannot use here")
