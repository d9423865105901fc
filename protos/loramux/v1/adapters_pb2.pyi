import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AdapterState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ADAPTER_STATE_UNSPECIFIED: _ClassVar[AdapterState]
    ADAPTER_STATE_COLD: _ClassVar[AdapterState]
    ADAPTER_STATE_LOADING: _ClassVar[AdapterState]
    ADAPTER_STATE_HOST: _ClassVar[AdapterState]
    ADAPTER_STATE_DEVICE: _ClassVar[AdapterState]
    ADAPTER_STATE_FAILED: _ClassVar[AdapterState]
    ADAPTER_STATE_OUT_OF_SERVICE: _ClassVar[AdapterState]
ADAPTER_STATE_UNSPECIFIED: AdapterState
ADAPTER_STATE_COLD: AdapterState
ADAPTER_STATE_LOADING: AdapterState
ADAPTER_STATE_HOST: AdapterState
ADAPTER_STATE_DEVICE: AdapterState
ADAPTER_STATE_FAILED: AdapterState
ADAPTER_STATE_OUT_OF_SERVICE: AdapterState

class Adapter(_message.Message):
    __slots__ = ("adapter_id", "version", "source", "base_model_name", "modules", "num_bytes", "leases", "loaded_at", "max_rank", "state", "policy", "canary", "older_versions", "error", "notes")
    ADAPTER_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    BASE_MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    MODULES_FIELD_NUMBER: _ClassVar[int]
    NUM_BYTES_FIELD_NUMBER: _ClassVar[int]
    LEASES_FIELD_NUMBER: _ClassVar[int]
    LOADED_AT_FIELD_NUMBER: _ClassVar[int]
    MAX_RANK_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    CANARY_FIELD_NUMBER: _ClassVar[int]
    OLDER_VERSIONS_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    NOTES_FIELD_NUMBER: _ClassVar[int]
    adapter_id: str
    version: str
    source: str
    base_model_name: str
    modules: _containers.RepeatedCompositeFieldContainer[AppliedModule]
    num_bytes: int
    leases: int
    loaded_at: _timestamp_pb2.Timestamp
    max_rank: int
    state: AdapterState
    policy: Policy
    canary: Canary
    older_versions: _containers.RepeatedScalarFieldContainer[str]
    error: str
    notes: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, adapter_id: _Optional[str] = ..., version: _Optional[str] = ..., source: _Optional[str] = ..., base_model_name: _Optional[str] = ..., modules: _Optional[_Iterable[_Union[AppliedModule, _Mapping]]] = ..., num_bytes: _Optional[int] = ..., leases: _Optional[int] = ..., loaded_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., max_rank: _Optional[int] = ..., state: _Optional[_Union[AdapterState, str]] = ..., policy: _Optional[_Union[Policy, _Mapping]] = ..., canary: _Optional[_Union[Canary, _Mapping]] = ..., older_versions: _Optional[_Iterable[str]] = ..., error: _Optional[str] = ..., notes: _Optional[_Iterable[str]] = ...) -> None: ...

class AppliedModule(_message.Message):
    __slots__ = ("name", "rank", "scaling", "parts", "num_bytes")
    NAME_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    SCALING_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    NUM_BYTES_FIELD_NUMBER: _ClassVar[int]
    name: str
    rank: int
    scaling: float
    parts: _containers.RepeatedScalarFieldContainer[str]
    num_bytes: int
    def __init__(self, name: _Optional[str] = ..., rank: _Optional[int] = ..., scaling: _Optional[float] = ..., parts: _Optional[_Iterable[str]] = ..., num_bytes: _Optional[int] = ...) -> None: ...

class Canary(_message.Message):
    __slots__ = ("version", "weight", "error")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    version: str
    weight: float
    error: str
    def __init__(self, version: _Optional[str] = ..., weight: _Optional[float] = ..., error: _Optional[str] = ...) -> None: ...

class Policy(_message.Message):
    __slots__ = ("weight", "max_running", "max_waiting", "tokens_per_minute", "pinned")
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    MAX_RUNNING_FIELD_NUMBER: _ClassVar[int]
    MAX_WAITING_FIELD_NUMBER: _ClassVar[int]
    TOKENS_PER_MINUTE_FIELD_NUMBER: _ClassVar[int]
    PINNED_FIELD_NUMBER: _ClassVar[int]
    weight: float
    max_running: int
    max_waiting: int
    tokens_per_minute: int
    pinned: bool
    def __init__(self, weight: _Optional[float] = ..., max_running: _Optional[int] = ..., max_waiting: _Optional[int] = ..., tokens_per_minute: _Optional[int] = ..., pinned: _Optional[bool] = ...) -> None: ...

class LoadAdapterRequest(_message.Message):
    __slots__ = ("adapter_id", "path", "source", "canary_weight", "policy", "allow_unknown_fields")
    ADAPTER_ID_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    CANARY_WEIGHT_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    ALLOW_UNKNOWN_FIELDS_FIELD_NUMBER: _ClassVar[int]
    adapter_id: str
    path: str
    source: str
    canary_weight: float
    policy: Policy
    allow_unknown_fields: bool
    def __init__(self, adapter_id: _Optional[str] = ..., path: _Optional[str] = ..., source: _Optional[str] = ..., canary_weight: _Optional[float] = ..., policy: _Optional[_Union[Policy, _Mapping]] = ..., allow_unknown_fields: _Optional[bool] = ...) -> None: ...

class UnloadAdapterRequest(_message.Message):
    __slots__ = ("adapter_id", "timeout_s")
    ADAPTER_ID_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    adapter_id: str
    timeout_s: float
    def __init__(self, adapter_id: _Optional[str] = ..., timeout_s: _Optional[float] = ...) -> None: ...

class RollbackAdapterRequest(_message.Message):
    __slots__ = ("adapter_id", "version")
    ADAPTER_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    adapter_id: str
    version: str
    def __init__(self, adapter_id: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class SetCanaryRequest(_message.Message):
    __slots__ = ("adapter_id", "weight")
    ADAPTER_ID_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    adapter_id: str
    weight: float
    def __init__(self, adapter_id: _Optional[str] = ..., weight: _Optional[float] = ...) -> None: ...

class SetPolicyRequest(_message.Message):
    __slots__ = ("adapter_id", "policy")
    ADAPTER_ID_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    adapter_id: str
    policy: Policy
    def __init__(self, adapter_id: _Optional[str] = ..., policy: _Optional[_Union[Policy, _Mapping]] = ...) -> None: ...

class SetPolicyResponse(_message.Message):
    __slots__ = ("adapter",)
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    adapter: Adapter
    def __init__(self, adapter: _Optional[_Union[Adapter, _Mapping]] = ...) -> None: ...

class GetAdapterRequest(_message.Message):
    __slots__ = ("adapter_id",)
    ADAPTER_ID_FIELD_NUMBER: _ClassVar[int]
    adapter_id: str
    def __init__(self, adapter_id: _Optional[str] = ...) -> None: ...

class ListAdaptersRequest(_message.Message):
    __slots__ = ("page_size", "page_token", "without_modules")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    WITHOUT_MODULES_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    without_modules: bool
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., without_modules: _Optional[bool] = ...) -> None: ...

class ListAdaptersResponse(_message.Message):
    __slots__ = ("adapters", "next_page_token", "total_size")
    ADAPTERS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    TOTAL_SIZE_FIELD_NUMBER: _ClassVar[int]
    adapters: _containers.RepeatedCompositeFieldContainer[Adapter]
    next_page_token: str
    total_size: int
    def __init__(self, adapters: _Optional[_Iterable[_Union[Adapter, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., total_size: _Optional[int] = ...) -> None: ...

class ListDeclaredAdaptersRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListDeclaredAdaptersResponse(_message.Message):
    __slots__ = ("adapters",)
    ADAPTERS_FIELD_NUMBER: _ClassVar[int]
    adapters: _containers.RepeatedCompositeFieldContainer[DeclaredAdapter]
    def __init__(self, adapters: _Optional[_Iterable[_Union[DeclaredAdapter, _Mapping]]] = ...) -> None: ...

class DeclaredAdapter(_message.Message):
    __slots__ = ("name", "source", "state", "version", "error")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    name: str
    source: str
    state: str
    version: str
    error: str
    def __init__(self, name: _Optional[str] = ..., source: _Optional[str] = ..., state: _Optional[str] = ..., version: _Optional[str] = ..., error: _Optional[str] = ...) -> None: ...
