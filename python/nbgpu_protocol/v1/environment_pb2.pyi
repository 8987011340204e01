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
ACTION_UNSPECIFIED: Action
CACHED: Action
FETCH: Action
BUILD: Action
SWAP: Action
LEAVE_OUT: Action
IMPOSSIBLE: Action

class PlanRequest(_message.Message):
    __slots__ = ("snapshot_digest",)
    SNAPSHOT_DIGEST_FIELD_NUMBER: _ClassVar[int]
    snapshot_digest: str
    def __init__(self, snapshot_digest: _Optional[str] = ...) -> None: ...

class PlannedDistribution(_message.Message):
    __slots__ = ("name", "version", "action", "size_bytes", "why")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    action: Action
    size_bytes: int
    why: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., action: _Optional[_Union[Action, str]] = ..., size_bytes: _Optional[int] = ..., why: _Optional[str] = ...) -> None: ...

class PlanResponse(_message.Message):
    __slots__ = ("distributions", "estimated_s")
    DISTRIBUTIONS_FIELD_NUMBER: _ClassVar[int]
    ESTIMATED_S_FIELD_NUMBER: _ClassVar[int]
    distributions: _containers.RepeatedCompositeFieldContainer[PlannedDistribution]
    estimated_s: float
    def __init__(self, distributions: _Optional[_Iterable[_Union[PlannedDistribution, _Mapping]]] = ..., estimated_s: _Optional[float] = ...) -> None: ...

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
