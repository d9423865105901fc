"""Every error that the runtime raises on purpose, one class per way a caller can react.

LoramuxError
  InvalidRequestError
  UnknownAdapterError
  AdapterError
    AdapterMissingError
    BaseMismatchError
  AdapterExistsError
  AdapterUnavailableError
  AdapterInUseError
  AdapterCapacityError
    NotYetFreeError
  BaseModelError
  QueueFullError
  AdapterLimitError
  CallerLimitError
  RequestCancelledError
  RequestTimeoutError
  UnreadAnswerError
  EngineStoppedError
  EngineFailedError
  TrainingError
    DivergedError
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

_DESCRIBED_CHARS = 300
RETRY_AFTER_S = 1.0
"""Seconds after which callers are told to come back: a place is free once some sequence has ended.
"""


class LoramuxError(Exception):
    """Base class of all errors raised by the runtime."""


def ends_thread(error: BaseException) -> bool:
    """Tell whether an exception asks the thread to end. All others are failures of a call, also
    those that are no Exceptions: a panic in a Rust library is a BaseException."""
    return isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit)


@contextmanager
def panics_as(kind: type[LoramuxError]) -> Iterator[None]:
    """Raise `kind` for what is no Exception and does not ask the thread to end."""
    try:
        yield
    except Exception:
        raise
    except BaseException as error:
        if ends_thread(error):
            raise
        raise kind(described(error)) from error


def described(error: BaseException) -> str:
    """Kind and text of an exception, which may have been made by anybody, on one short line."""
    try:
        text = " ".join(str(error).split())
    except BaseException:
        text = ""
    return f"{type(error).__name__}: {text}"[:_DESCRIBED_CHARS].removesuffix(": ")


@dataclass(frozen=True)
class FieldViolation:
    """One bad field of a request: its name and what is wrong with it."""

    field: str
    description: str


class InvalidRequestError(LoramuxError):
    """The request can never succeed as it is: bad sampling value, empty or overlong prompt."""

    def __init__(self, violations: Sequence[FieldViolation]) -> None:
        self.violations = tuple(violations)
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in self.violations))

    @classmethod
    def of(cls, field: str, description: str) -> InvalidRequestError:
        """Make one that is about a single field."""
        return cls([FieldViolation(field, description)])


class UnknownAdapterError(LoramuxError):
    """No adapter is registered under this id."""

    def __init__(self, adapter_id: str) -> None:
        self.adapter_id = adapter_id
        super().__init__(f"adapter {adapter_id!r} is not registered")


class AdapterError(LoramuxError):
    """The adapter's files are unreadable, corrupt, or use something the runtime cannot apply."""


class AdapterMissingError(AdapterError):
    """There is no adapter at the source: no such directory, no configuration in it."""


class BaseMismatchError(AdapterError):
    """The adapter was made for another base: a target module is missing or has another shape."""


class AdapterExistsError(LoramuxError):
    """The id has an adapter, which the new one was not to replace."""


class AdapterUnavailableError(LoramuxError):
    """A registered adapter cannot serve: its source is gone, or holds other content than was
    registered; or steps with it fail, so that it is out of service until it is loaded again."""

    def __init__(self, message: str, adapter_id: str = "") -> None:
        self.adapter_id = adapter_id
        super().__init__(message)

    def of(self, adapter_id: str) -> AdapterUnavailableError:
        """The same for one of the ids that share the adapter."""
        return AdapterUnavailableError(f"adapter {adapter_id!r} {self}", adapter_id)


class AdapterInUseError(LoramuxError):
    """Unload was refused: requests still hold leases on the adapter."""


class AdapterCapacityError(LoramuxError):
    """The adapter does not fit into what the slots hold beside pinned adapters."""


class NotYetFreeError(AdapterCapacityError):
    """Memory is short, but steps that are enqueued hold some that was let go: the next try may find
    it."""


class BaseModelError(LoramuxError):
    """The base model cannot be loaded, or its architecture cannot be served faithfully."""


class QueueFullError(LoramuxError):
    """The waiting queue is full; try again after `retry_after_s` seconds."""

    def __init__(self, limit: int, retry_after_s: float) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(f"the waiting queue holds its limit of {limit} sequences")


class AdapterLimitError(LoramuxError):
    """The adapter's own limit is reached; try again after `retry_after_s` seconds."""

    def __init__(self, adapter_id: str, limit: str, retry_after_s: float) -> None:
        self.adapter_id, self.retry_after_s = adapter_id, retry_after_s
        name = f"adapter {adapter_id!r}" if adapter_id else "the base model"
        super().__init__(f"{name} has reached its limit of {limit}")


class CallerLimitError(LoramuxError):
    """The caller holds its share of the queue; try again after `retry_after_s` seconds."""

    def __init__(self, caller: str, limit: str, retry_after_s: float) -> None:
        self.caller, self.retry_after_s = caller, retry_after_s
        super().__init__(f"caller {caller!r} has reached its limit of {limit}")


class RequestCancelledError(LoramuxError):
    """The request was cancelled by its caller."""


class RequestTimeoutError(LoramuxError):
    """The request's deadline passed before it finished."""


class UnreadAnswerError(LoramuxError):
    """The request's caller did not take its tokens, and too many were waiting."""

    def __init__(self) -> None:
        super().__init__("the answer was not read: it was ended, too much of it was waiting")


class EngineStoppedError(LoramuxError):
    """The engine is draining or stopped and takes no new requests."""


class EngineFailedError(LoramuxError):
    """The request could not be computed, or the engine thread failed: then none can be until the
    process restarts (see Engine.failure)."""


class TrainingError(LoramuxError):
    """An adapter cannot be trained: the data, the settings, the base, or the place to write to."""


class DivergedError(TrainingError):
    """The loss or a gradient is no number any more. What was saved before stays."""

    def __init__(self, step: int, learning_rate: float, what: str, checkpoint: str) -> None:
        self.step, self.learning_rate = step, learning_rate
        super().__init__(f"step {step}, learning rate {learning_rate:g}: {what}; {checkpoint}")
