from loramux.v1 import adapters_pb2 as _adapters_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ServerState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SERVER_STATE_UNSPECIFIED: _ClassVar[ServerState]
    SERVER_STATE_NOT_READY: _ClassVar[ServerState]
    SERVER_STATE_READY: _ClassVar[ServerState]
    SERVER_STATE_DRAINING: _ClassVar[ServerState]
    SERVER_STATE_FAILED: _ClassVar[ServerState]
    SERVER_STATE_STALLED: _ClassVar[ServerState]
SERVER_STATE_UNSPECIFIED: ServerState
SERVER_STATE_NOT_READY: ServerState
SERVER_STATE_READY: ServerState
SERVER_STATE_DRAINING: ServerState
SERVER_STATE_FAILED: ServerState
SERVER_STATE_STALLED: ServerState

class GetServerInfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ServerInfo(_message.Message):
    __slots__ = ("version", "base_model", "architecture", "device", "dtype", "kernels", "num_parameters", "vocab_size", "limits", "load", "memory", "readiness", "notes")
    class KernelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    VERSION_FIELD_NUMBER: _ClassVar[int]
    BASE_MODEL_FIELD_NUMBER: _ClassVar[int]
    ARCHITECTURE_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    KERNELS_FIELD_NUMBER: _ClassVar[int]
    NUM_PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    VOCAB_SIZE_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    READINESS_FIELD_NUMBER: _ClassVar[int]
    NOTES_FIELD_NUMBER: _ClassVar[int]
    version: str
    base_model: str
    architecture: str
    device: str
    dtype: str
    kernels: _containers.ScalarMap[str, str]
    num_parameters: int
    vocab_size: int
    limits: Limits
    load: Load
    memory: Memory
    readiness: Readiness
    notes: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, version: _Optional[str] = ..., base_model: _Optional[str] = ..., architecture: _Optional[str] = ..., device: _Optional[str] = ..., dtype: _Optional[str] = ..., kernels: _Optional[_Mapping[str, str]] = ..., num_parameters: _Optional[int] = ..., vocab_size: _Optional[int] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., load: _Optional[_Union[Load, _Mapping]] = ..., memory: _Optional[_Union[Memory, _Mapping]] = ..., readiness: _Optional[_Union[Readiness, _Mapping]] = ..., notes: _Optional[_Iterable[str]] = ...) -> None: ...

class Readiness(_message.Message):
    __slots__ = ("state", "waiting_for", "waiting_for_count")
    STATE_FIELD_NUMBER: _ClassVar[int]
    WAITING_FOR_FIELD_NUMBER: _ClassVar[int]
    WAITING_FOR_COUNT_FIELD_NUMBER: _ClassVar[int]
    state: ServerState
    waiting_for: _containers.RepeatedCompositeFieldContainer[_adapters_pb2.DeclaredAdapter]
    waiting_for_count: int
    def __init__(self, state: _Optional[_Union[ServerState, str]] = ..., waiting_for: _Optional[_Iterable[_Union[_adapters_pb2.DeclaredAdapter, _Mapping]]] = ..., waiting_for_count: _Optional[int] = ...) -> None: ...

class Memory(_message.Message):
    __slots__ = ("total", "used", "steps", "graphs", "adapters", "kv_cache")
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    USED_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    GRAPHS_FIELD_NUMBER: _ClassVar[int]
    ADAPTERS_FIELD_NUMBER: _ClassVar[int]
    KV_CACHE_FIELD_NUMBER: _ClassVar[int]
    total: int
    used: int
    steps: int
    graphs: int
    adapters: int
    kv_cache: int
    def __init__(self, total: _Optional[int] = ..., used: _Optional[int] = ..., steps: _Optional[int] = ..., graphs: _Optional[int] = ..., adapters: _Optional[int] = ..., kv_cache: _Optional[int] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("max_context", "max_adapters", "max_running", "max_waiting", "max_batch_tokens", "kv_block_size", "kv_blocks", "max_message_bytes", "host_adapter_bytes")
    MAX_CONTEXT_FIELD_NUMBER: _ClassVar[int]
    MAX_ADAPTERS_FIELD_NUMBER: _ClassVar[int]
    MAX_RUNNING_FIELD_NUMBER: _ClassVar[int]
    MAX_WAITING_FIELD_NUMBER: _ClassVar[int]
    MAX_BATCH_TOKENS_FIELD_NUMBER: _ClassVar[int]
    KV_BLOCK_SIZE_FIELD_NUMBER: _ClassVar[int]
    KV_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    MAX_MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    HOST_ADAPTER_BYTES_FIELD_NUMBER: _ClassVar[int]
    max_context: int
    max_adapters: int
    max_running: int
    max_waiting: int
    max_batch_tokens: int
    kv_block_size: int
    kv_blocks: int
    max_message_bytes: int
    host_adapter_bytes: int
    def __init__(self, max_context: _Optional[int] = ..., max_adapters: _Optional[int] = ..., max_running: _Optional[int] = ..., max_waiting: _Optional[int] = ..., max_batch_tokens: _Optional[int] = ..., kv_block_size: _Optional[int] = ..., kv_blocks: _Optional[int] = ..., max_message_bytes: _Optional[int] = ..., host_adapter_bytes: _Optional[int] = ...) -> None: ...

class Load(_message.Message):
    __slots__ = ("running", "waiting", "adapters", "adapter_bytes", "leases", "kv_blocks_used", "kv_blocks_cached", "preemptions", "steps", "registered_adapters", "host_adapters", "host_adapter_bytes", "loading_adapters")
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    ADAPTERS_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_BYTES_FIELD_NUMBER: _ClassVar[int]
    LEASES_FIELD_NUMBER: _ClassVar[int]
    KV_BLOCKS_USED_FIELD_NUMBER: _ClassVar[int]
    KV_BLOCKS_CACHED_FIELD_NUMBER: _ClassVar[int]
    PREEMPTIONS_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    REGISTERED_ADAPTERS_FIELD_NUMBER: _ClassVar[int]
    HOST_ADAPTERS_FIELD_NUMBER: _ClassVar[int]
    HOST_ADAPTER_BYTES_FIELD_NUMBER: _ClassVar[int]
    LOADING_ADAPTERS_FIELD_NUMBER: _ClassVar[int]
    running: int
    waiting: int
    adapters: int
    adapter_bytes: int
    leases: int
    kv_blocks_used: int
    kv_blocks_cached: int
    preemptions: int
    steps: int
    registered_adapters: int
    host_adapters: int
    host_adapter_bytes: int
    loading_adapters: int
    def __init__(self, running: _Optional[int] = ..., waiting: _Optional[int] = ..., adapters: _Optional[int] = ..., adapter_bytes: _Optional[int] = ..., leases: _Optional[int] = ..., kv_blocks_used: _Optional[int] = ..., kv_blocks_cached: _Optional[int] = ..., preemptions: _Optional[int] = ..., steps: _Optional[int] = ..., registered_adapters: _Optional[int] = ..., host_adapters: _Optional[int] = ..., host_adapter_bytes: _Optional[int] = ..., loading_adapters: _Optional[int] = ...) -> None: ...

class ServerStatus(_message.Message):
    __slots__ = ("version", "base_model", "readiness", "limits", "load", "memory", "rates", "batch", "slots", "loading_adapter_ids")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    BASE_MODEL_FIELD_NUMBER: _ClassVar[int]
    READINESS_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    RATES_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    LOADING_ADAPTER_IDS_FIELD_NUMBER: _ClassVar[int]
    version: str
    base_model: str
    readiness: Readiness
    limits: Limits
    load: Load
    memory: Memory
    rates: Rates
    batch: Batch
    slots: _containers.RepeatedCompositeFieldContainer[Slot]
    loading_adapter_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, version: _Optional[str] = ..., base_model: _Optional[str] = ..., readiness: _Optional[_Union[Readiness, _Mapping]] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., load: _Optional[_Union[Load, _Mapping]] = ..., memory: _Optional[_Union[Memory, _Mapping]] = ..., rates: _Optional[_Union[Rates, _Mapping]] = ..., batch: _Optional[_Union[Batch, _Mapping]] = ..., slots: _Optional[_Iterable[_Union[Slot, _Mapping]]] = ..., loading_adapter_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class Rates(_message.Message):
    __slots__ = ("generated_tokens_per_s", "prompt_tokens_per_s", "ttft_p50_s", "ttft_p99_s", "ttft_requests")
    GENERATED_TOKENS_PER_S_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_PER_S_FIELD_NUMBER: _ClassVar[int]
    TTFT_P50_S_FIELD_NUMBER: _ClassVar[int]
    TTFT_P99_S_FIELD_NUMBER: _ClassVar[int]
    TTFT_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    generated_tokens_per_s: float
    prompt_tokens_per_s: float
    ttft_p50_s: float
    ttft_p99_s: float
    ttft_requests: int
    def __init__(self, generated_tokens_per_s: _Optional[float] = ..., prompt_tokens_per_s: _Optional[float] = ..., ttft_p50_s: _Optional[float] = ..., ttft_p99_s: _Optional[float] = ..., ttft_requests: _Optional[int] = ...) -> None: ...

class Batch(_message.Message):
    __slots__ = ("step_age_s", "adapters", "other_adapters", "other_sequences")
    STEP_AGE_S_FIELD_NUMBER: _ClassVar[int]
    ADAPTERS_FIELD_NUMBER: _ClassVar[int]
    OTHER_ADAPTERS_FIELD_NUMBER: _ClassVar[int]
    OTHER_SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    step_age_s: float
    adapters: _containers.RepeatedCompositeFieldContainer[BatchAdapter]
    other_adapters: int
    other_sequences: int
    def __init__(self, step_age_s: _Optional[float] = ..., adapters: _Optional[_Iterable[_Union[BatchAdapter, _Mapping]]] = ..., other_adapters: _Optional[int] = ..., other_sequences: _Optional[int] = ...) -> None: ...

class BatchAdapter(_message.Message):
    __slots__ = ("adapter_id", "sequences")
    ADAPTER_ID_FIELD_NUMBER: _ClassVar[int]
    SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    adapter_id: str
    sequences: int
    def __init__(self, adapter_id: _Optional[str] = ..., sequences: _Optional[int] = ...) -> None: ...

class Slot(_message.Message):
    __slots__ = ("adapter_ids", "version", "pinned", "num_bytes", "rank", "running", "is_hidden", "adapter_ids_count")
    ADAPTER_IDS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PINNED_FIELD_NUMBER: _ClassVar[int]
    NUM_BYTES_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    IS_HIDDEN_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_IDS_COUNT_FIELD_NUMBER: _ClassVar[int]
    adapter_ids: _containers.RepeatedScalarFieldContainer[str]
    version: str
    pinned: bool
    num_bytes: int
    rank: int
    running: int
    is_hidden: bool
    adapter_ids_count: int
    def __init__(self, adapter_ids: _Optional[_Iterable[str]] = ..., version: _Optional[str] = ..., pinned: _Optional[bool] = ..., num_bytes: _Optional[int] = ..., rank: _Optional[int] = ..., running: _Optional[int] = ..., is_hidden: _Optional[bool] = ..., adapter_ids_count: _Optional[int] = ...) -> None: ...
