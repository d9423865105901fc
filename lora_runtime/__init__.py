"""loramux's runtime: one frozen base, many LoRA adapters, mixed in one batch. No gRPC in here.

Names that need torch are loaded when they are first asked for: the others are there at once.

Its rooms, each of which imports only from those below it, from top to bottom:

engine training
base_model
backends sampling
scheduling
requests
grammars
adapters
model
kernels
api config foreign
durable errors kv_cache modules permissions settings version
"""

from typing import TYPE_CHECKING

from .api.adapters import (
    AdapterInfo,
    AdapterPolicy,
    AdapterState,
    AppliedModule,
    CanaryInfo,
    RegisteredVersion,
    Registration,
)
from .api.answers import (
    AdapterUse,
    Choice,
    FinishReason,
    Generation,
    Timings,
    TokenEvent,
    TokenLogprob,
    Usage,
)
from .api.limits import RequestLimits
from .api.messages import MAX_PARTS, ChatMessage, ContentPart, NamedTool, ToolCall
from .api.parsed import MessageDelta, ParsedMessage, ToolCallDelta
from .api.reports import (
    EngineInfo,
    EngineObserver,
    EngineStats,
    MemoryPlan,
    Occupancy,
    RequestRecord,
    ResidentAdapter,
    RunningStep,
    StepStats,
)
from .api.requests import MAX_ID_LENGTH, MAX_PRIORITY, Request, SamplingParams, WeightedAdapter
from .api.structured import StructuredAnswer, StructuredKind
from .config import BaseConfig, EngineConfig
from .errors import (
    AdapterCapacityError,
    AdapterError,
    AdapterExistsError,
    AdapterInUseError,
    AdapterLimitError,
    AdapterMissingError,
    AdapterUnavailableError,
    BaseMismatchError,
    BaseModelError,
    CallerLimitError,
    DivergedError,
    EngineFailedError,
    EngineStoppedError,
    FieldViolation,
    InvalidRequestError,
    LoramuxError,
    QueueFullError,
    RequestCancelledError,
    RequestTimeoutError,
    TrainingError,
    UnknownAdapterError,
    UnreadAnswerError,
)
from .requests.handle import RequestHandle
from .requests.prompts.prompt_tokens import PromptTokens
from .version import __version__

if TYPE_CHECKING:
    from .adapters.peft.inspect import AdapterReport, inspect_adapter
    from .adapters.peft.inspect import render_text as report_to_text
    from .adapters.peft.inspect import to_json as report_to_json
    from .adapters.sources.source_files import REQUIRED as ADAPTER_FILES
    from .adapters.sources.source_files import missing_adapter_file, redact, scrub
    from .adapters.sources.sources import is_remote
    from .base_model import BaseModel
    from .engine.engine import Engine
else:  # where a type checker does not look: for it, a module with a __getattr__ has every name
    from pkgutil import resolve_name as _resolve_name

    _LATER = {
        "ADAPTER_FILES": "adapters.sources.source_files:REQUIRED",
        "AdapterReport": "adapters.peft.inspect:AdapterReport",
        "BaseModel": "base_model:BaseModel",
        "Engine": "engine.engine:Engine",
        "inspect_adapter": "adapters.peft.inspect:inspect_adapter",
        "is_remote": "adapters.sources.sources:is_remote",
        "missing_adapter_file": "adapters.sources.source_files:missing_adapter_file",
        "redact": "adapters.sources.source_files:redact",
        "report_to_json": "adapters.peft.inspect:to_json",
        "report_to_text": "adapters.peft.inspect:render_text",
        "scrub": "adapters.sources.source_files:scrub",
    }

    def __getattr__(name: str) -> object:
        if name not in _LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = _resolve_name(f"{__name__}.{_LATER[name]}")
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *_LATER})


__all__ = [
    "ADAPTER_FILES",
    "MAX_ID_LENGTH",
    "MAX_PARTS",
    "MAX_PRIORITY",
    "AdapterCapacityError",
    "AdapterError",
    "AdapterExistsError",
    "AdapterInUseError",
    "AdapterInfo",
    "AdapterLimitError",
    "AdapterMissingError",
    "AdapterPolicy",
    "AdapterReport",
    "AdapterState",
    "AdapterUnavailableError",
    "AdapterUse",
    "AppliedModule",
    "BaseConfig",
    "BaseMismatchError",
    "BaseModel",
    "BaseModelError",
    "CallerLimitError",
    "CanaryInfo",
    "ChatMessage",
    "Choice",
    "ContentPart",
    "DivergedError",
    "Engine",
    "EngineConfig",
    "EngineFailedError",
    "EngineInfo",
    "EngineObserver",
    "EngineStats",
    "EngineStoppedError",
    "FieldViolation",
    "FinishReason",
    "Generation",
    "InvalidRequestError",
    "LoramuxError",
    "MemoryPlan",
    "MessageDelta",
    "NamedTool",
    "Occupancy",
    "ParsedMessage",
    "PromptTokens",
    "QueueFullError",
    "RegisteredVersion",
    "Registration",
    "Request",
    "RequestCancelledError",
    "RequestHandle",
    "RequestLimits",
    "RequestRecord",
    "RequestTimeoutError",
    "ResidentAdapter",
    "RunningStep",
    "SamplingParams",
    "StepStats",
    "StructuredAnswer",
    "StructuredKind",
    "Timings",
    "TokenEvent",
    "TokenLogprob",
    "ToolCall",
    "ToolCallDelta",
    "TrainingError",
    "UnknownAdapterError",
    "UnreadAnswerError",
    "Usage",
    "WeightedAdapter",
    "__version__",
    "inspect_adapter",
    "is_remote",
    "missing_adapter_file",
    "redact",
    "report_to_json",
    "report_to_text",
    "scrub",
]
