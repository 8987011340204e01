from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Action(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ACTION_UNSPECIFIED: _ClassVar[Action]
    CACHED: _ClassVar[Action]
    FETCH: _ClassVar[Action]
    BUILD: _ClassVar[Action]
    SWAP: _ClassVar[Action]
    LEAVE_OUT: _ClassVar[Action]
    IMPOSSIBLE: _ClassVar[Action]
    SEND: _ClassVar[Action]
    PROVIDED: _ClassVar[Action]
ACTION_UNSPECIFIED: Action
CACHED: Action
FETCH: Action
BUILD: Action
SWAP: Action
LEAVE_OUT: Action
IMPOSSIBLE: Action
SEND: Action
PROVIDED: Action

class PlanRequest(_message.Message):
    __slots__ = ("snapshot_digest",)
    SNAPSHOT_DIGEST_FIELD_NUMBER: _ClassVar[int]
    snapshot_digest: str
    def __init__(self, snapshot_digest: _Optional[str] = ...) -> None: ...

class PlannedDistribution(_message.Message):
    __slots__ = ("name", "version", "action", "size_bytes", "why", "added")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    ADDED_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    action: Action
    size_bytes: int
    why: str
    added: bool
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., action: _Optional[_Union[Action, str]] = ..., size_bytes: _Optional[int] = ..., why: _Optional[str] = ..., added: bool = ...) -> None: ...

class PlanResponse(_message.Message):
    __slots__ = ("distributions", "estimated_s", "environment_id", "built", "python_version", "download_bytes", "unknown_sizes", "bytes_per_s", "rate_measured")
    DISTRIBUTIONS_FIELD_NUMBER: _ClassVar[int]
    ESTIMATED_S_FIELD_NUMBER: _ClassVar[int]
    ENVIRONMENT_ID_FIELD_NUMBER: _ClassVar[int]
    BUILT_FIELD_NUMBER: _ClassVar[int]
    PYTHON_VERSION_FIELD_NUMBER: _ClassVar[int]
    DOWNLOAD_BYTES_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_SIZES_FIELD_NUMBER: _ClassVar[int]
    BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    RATE_MEASURED_FIELD_NUMBER: _ClassVar[int]
    distributions: _containers.RepeatedCompositeFieldContainer[PlannedDistribution]
    estimated_s: float
    environment_id: str
    built: bool
    python_version: str
    download_bytes: int
    unknown_sizes: int
    bytes_per_s: float
    rate_measured: bool
    def __init__(self, distributions: _Optional[_Iterable[_Union[PlannedDistribution, _Mapping]]] = ..., estimated_s: _Optional[float] = ..., environment_id: _Optional[str] = ..., built: bool = ..., python_version: _Optional[str] = ..., download_bytes: _Optional[int] = ..., unknown_sizes: _Optional[int] = ..., bytes_per_s: _Optional[float] = ..., rate_measured: bool = ...) -> None: ...

class MaterialiseRequest(_message.Message):
    __slots__ = ("snapshot_digest",)
    SNAPSHOT_DIGEST_FIELD_NUMBER: _ClassVar[int]
    snapshot_digest: str
    def __init__(self, snapshot_digest: _Optional[str] = ...) -> None: ...

class MaterialiseUpdate(_message.Message):
    __slots__ = ("done", "total", "current", "environment_id")
    DONE_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    CURRENT_FIELD_NUMBER: _ClassVar[int]
    ENVIRONMENT_ID_FIELD_NUMBER: _ClassVar[int]
    done: int
    total: int
    current: str
    environment_id: str
    def __init__(self, done: _Optional[int] = ..., total: _Optional[int] = ..., current: _Optional[str] = ..., environment_id: _Optional[str] = ...) -> None: ...

class UpdateSessionRequest(_message.Message):
    __slots__ = ("session_id", "snapshot_digest", "variables")
    class VariablesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_DIGEST_FIELD_NUMBER: _ClassVar[int]
    VARIABLES_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    snapshot_digest: str
    variables: _containers.ScalarMap[str, str]
    def __init__(self, session_id: _Optional[str] = ..., snapshot_digest: _Optional[str] = ..., variables: _Optional[_Mapping[str, str]] = ...) -> None: ...
