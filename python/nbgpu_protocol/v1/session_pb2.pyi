from nbgpu_protocol.v1 import pool_pb2 as _pool_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Channel(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CHANNEL_UNSPECIFIED: _ClassVar[Channel]
    SHELL: _ClassVar[Channel]
    CONTROL: _ClassVar[Channel]
    STDIN: _ClassVar[Channel]
    IOPUB: _ClassVar[Channel]
CHANNEL_UNSPECIFIED: Channel
SHELL: Channel
CONTROL: Channel
STDIN: Channel
IOPUB: Channel

class Fragment(_message.Message):
    __slots__ = ("channel", "part_sizes", "payload", "last", "request_id")
    CHANNEL_FIELD_NUMBER: _ClassVar[int]
    PART_SIZES_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    channel: Channel
    part_sizes: _containers.RepeatedScalarFieldContainer[int]
    payload: bytes
    last: bool
    request_id: str
    def __init__(self, channel: _Optional[_Union[Channel, str]] = ..., part_sizes: _Optional[_Iterable[int]] = ..., payload: _Optional[bytes] = ..., last: bool = ..., request_id: _Optional[str] = ...) -> None: ...

class ClientFrame(_message.Message):
    __slots__ = ("connect", "fragment", "acknowledged")
    CONNECT_FIELD_NUMBER: _ClassVar[int]
    FRAGMENT_FIELD_NUMBER: _ClassVar[int]
    ACKNOWLEDGED_FIELD_NUMBER: _ClassVar[int]
    connect: ConnectRequest
    fragment: Fragment
    acknowledged: int
    def __init__(self, connect: _Optional[_Union[ConnectRequest, _Mapping]] = ..., fragment: _Optional[_Union[Fragment, _Mapping]] = ..., acknowledged: _Optional[int] = ...) -> None: ...

class ConnectRequest(_message.Message):
    __slots__ = ("session_id", "client_id", "after_number", "only_new", "observer")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    AFTER_NUMBER_FIELD_NUMBER: _ClassVar[int]
    ONLY_NEW_FIELD_NUMBER: _ClassVar[int]
    OBSERVER_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    client_id: str
    after_number: int
    only_new: bool
    observer: bool
    def __init__(self, session_id: _Optional[str] = ..., client_id: _Optional[str] = ..., after_number: _Optional[int] = ..., only_new: bool = ..., observer: bool = ...) -> None: ...

class AgentFrame(_message.Message):
    __slots__ = ("connected", "entries")
    CONNECTED_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    connected: Connected
    entries: Entries
    def __init__(self, connected: _Optional[_Union[Connected, _Mapping]] = ..., entries: _Optional[_Union[Entries, _Mapping]] = ...) -> None: ...

class Connected(_message.Message):
    __slots__ = ("session", "last_number", "dropped_until")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    LAST_NUMBER_FIELD_NUMBER: _ClassVar[int]
    DROPPED_UNTIL_FIELD_NUMBER: _ClassVar[int]
    session: _pool_pb2.SessionInfo
    last_number: int
    dropped_until: int
    def __init__(self, session: _Optional[_Union[_pool_pb2.SessionInfo, _Mapping]] = ..., last_number: _Optional[int] = ..., dropped_until: _Optional[int] = ...) -> None: ...

class Entries(_message.Message):
    __slots__ = ("entries",)
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[Entry]
    def __init__(self, entries: _Optional[_Iterable[_Union[Entry, _Mapping]]] = ...) -> None: ...

class Entry(_message.Message):
    __slots__ = ("number", "message", "kernel_event", "request_refused", "gap", "session_closed", "choice", "notice", "cell_timed_out")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    KERNEL_EVENT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_REFUSED_FIELD_NUMBER: _ClassVar[int]
    GAP_FIELD_NUMBER: _ClassVar[int]
    SESSION_CLOSED_FIELD_NUMBER: _ClassVar[int]
    CHOICE_FIELD_NUMBER: _ClassVar[int]
    NOTICE_FIELD_NUMBER: _ClassVar[int]
    CELL_TIMED_OUT_FIELD_NUMBER: _ClassVar[int]
    number: int
    message: Fragment
    kernel_event: KernelEvent
    request_refused: RequestRefused
    gap: Gap
    session_closed: SessionClosed
    choice: Choice
    notice: Notice
    cell_timed_out: CellTimedOut
    def __init__(self, number: _Optional[int] = ..., message: _Optional[_Union[Fragment, _Mapping]] = ..., kernel_event: _Optional[_Union[KernelEvent, _Mapping]] = ..., request_refused: _Optional[_Union[RequestRefused, _Mapping]] = ..., gap: _Optional[_Union[Gap, _Mapping]] = ..., session_closed: _Optional[_Union[SessionClosed, _Mapping]] = ..., choice: _Optional[_Union[Choice, _Mapping]] = ..., notice: _Optional[_Union[Notice, _Mapping]] = ..., cell_timed_out: _Optional[_Union[CellTimedOut, _Mapping]] = ...) -> None: ...

class Notice(_message.Message):
    __slots__ = ("text",)
    TEXT_FIELD_NUMBER: _ClassVar[int]
    text: str
    def __init__(self, text: _Optional[str] = ...) -> None: ...

class KernelEvent(_message.Message):
    __slots__ = ("kind", "kernel_generation", "exit")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        KIND_UNSPECIFIED: _ClassVar[KernelEvent.Kind]
        STARTED: _ClassVar[KernelEvent.Kind]
        ENDED: _ClassVar[KernelEvent.Kind]
    KIND_UNSPECIFIED: KernelEvent.Kind
    STARTED: KernelEvent.Kind
    ENDED: KernelEvent.Kind
    KIND_FIELD_NUMBER: _ClassVar[int]
    KERNEL_GENERATION_FIELD_NUMBER: _ClassVar[int]
    EXIT_FIELD_NUMBER: _ClassVar[int]
    kind: KernelEvent.Kind
    kernel_generation: int
    exit: _pool_pb2.KernelExit
    def __init__(self, kind: _Optional[_Union[KernelEvent.Kind, str]] = ..., kernel_generation: _Optional[int] = ..., exit: _Optional[_Union[_pool_pb2.KernelExit, _Mapping]] = ...) -> None: ...

class RequestRefused(_message.Message):
    __slots__ = ("request_id", "error")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    error: _pool_pb2.Error
    def __init__(self, request_id: _Optional[str] = ..., error: _Optional[_Union[_pool_pb2.Error, _Mapping]] = ...) -> None: ...

class Gap(_message.Message):
    __slots__ = ("until_number",)
    UNTIL_NUMBER_FIELD_NUMBER: _ClassVar[int]
    until_number: int
    def __init__(self, until_number: _Optional[int] = ...) -> None: ...

class Choice(_message.Message):
    __slots__ = ("notebook_id", "session_id")
    NOTEBOOK_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    notebook_id: str
    session_id: str
    def __init__(self, notebook_id: _Optional[str] = ..., session_id: _Optional[str] = ...) -> None: ...

class CellTimedOut(_message.Message):
    __slots__ = ("request_id", "timeout_s", "processes", "cells")
    class CellsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    PROCESSES_FIELD_NUMBER: _ClassVar[int]
    CELLS_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    timeout_s: float
    processes: _containers.RepeatedCompositeFieldContainer[ProcessStacks]
    cells: _containers.ScalarMap[str, int]
    def __init__(self, request_id: _Optional[str] = ..., timeout_s: _Optional[float] = ..., processes: _Optional[_Iterable[_Union[ProcessStacks, _Mapping]]] = ..., cells: _Optional[_Mapping[str, int]] = ...) -> None: ...

class SessionClosed(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class ListExecutionsRequest(_message.Message):
    __slots__ = ("session_id", "after_number")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    AFTER_NUMBER_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    after_number: int
    def __init__(self, session_id: _Optional[str] = ..., after_number: _Optional[int] = ...) -> None: ...

class ListExecutionsResponse(_message.Message):
    __slots__ = ("executions", "last_number", "dropped_until")
    EXECUTIONS_FIELD_NUMBER: _ClassVar[int]
    LAST_NUMBER_FIELD_NUMBER: _ClassVar[int]
    DROPPED_UNTIL_FIELD_NUMBER: _ClassVar[int]
    executions: _containers.RepeatedCompositeFieldContainer[_pool_pb2.Execution]
    last_number: int
    dropped_until: int
    def __init__(self, executions: _Optional[_Iterable[_Union[_pool_pb2.Execution, _Mapping]]] = ..., last_number: _Optional[int] = ..., dropped_until: _Optional[int] = ...) -> None: ...

class NoteSavedRequest(_message.Message):
    __slots__ = ("session_id", "cell_ids")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    CELL_IDS_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    cell_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, session_id: _Optional[str] = ..., cell_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class NoteSavedResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ReadEntriesRequest(_message.Message):
    __slots__ = ("session_id", "after_number", "until_number", "request_id")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    AFTER_NUMBER_FIELD_NUMBER: _ClassVar[int]
    UNTIL_NUMBER_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    after_number: int
    until_number: int
    request_id: str
    def __init__(self, session_id: _Optional[str] = ..., after_number: _Optional[int] = ..., until_number: _Optional[int] = ..., request_id: _Optional[str] = ...) -> None: ...

class InterruptRequest(_message.Message):
    __slots__ = ("session_id", "request_id", "escalate")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ESCALATE_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    request_id: str
    escalate: bool
    def __init__(self, session_id: _Optional[str] = ..., request_id: _Optional[str] = ..., escalate: bool = ...) -> None: ...

class InterruptResponse(_message.Message):
    __slots__ = ("delivered",)
    DELIVERED_FIELD_NUMBER: _ClassVar[int]
    delivered: bool
    def __init__(self, delivered: bool = ...) -> None: ...

class RestartRequest(_message.Message):
    __slots__ = ("session_id",)
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    def __init__(self, session_id: _Optional[str] = ...) -> None: ...

class RestartResponse(_message.Message):
    __slots__ = ("session",)
    SESSION_FIELD_NUMBER: _ClassVar[int]
    session: _pool_pb2.SessionInfo
    def __init__(self, session: _Optional[_Union[_pool_pb2.SessionInfo, _Mapping]] = ...) -> None: ...

class StacksRequest(_message.Message):
    __slots__ = ("session_id",)
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    def __init__(self, session_id: _Optional[str] = ...) -> None: ...

class StacksResponse(_message.Message):
    __slots__ = ("text", "processes", "cells", "samples")
    class CellsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    TEXT_FIELD_NUMBER: _ClassVar[int]
    PROCESSES_FIELD_NUMBER: _ClassVar[int]
    CELLS_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    text: str
    processes: _containers.RepeatedCompositeFieldContainer[ProcessStacks]
    cells: _containers.ScalarMap[str, int]
    samples: _containers.RepeatedCompositeFieldContainer[_pool_pb2.Sample]
    def __init__(self, text: _Optional[str] = ..., processes: _Optional[_Iterable[_Union[ProcessStacks, _Mapping]]] = ..., cells: _Optional[_Mapping[str, int]] = ..., samples: _Optional[_Iterable[_Union[_pool_pb2.Sample, _Mapping]]] = ...) -> None: ...

class ProcessStacks(_message.Message):
    __slots__ = ("pid", "dump", "rank", "world_size", "group_id")
    PID_FIELD_NUMBER: _ClassVar[int]
    DUMP_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    WORLD_SIZE_FIELD_NUMBER: _ClassVar[int]
    GROUP_ID_FIELD_NUMBER: _ClassVar[int]
    pid: int
    dump: str
    rank: int
    world_size: int
    group_id: str
    def __init__(self, pid: _Optional[int] = ..., dump: _Optional[str] = ..., rank: _Optional[int] = ..., world_size: _Optional[int] = ..., group_id: _Optional[str] = ...) -> None: ...

class ReadLogRequest(_message.Message):
    __slots__ = ("session_id", "tail_bytes")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    TAIL_BYTES_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    tail_bytes: int
    def __init__(self, session_id: _Optional[str] = ..., tail_bytes: _Optional[int] = ...) -> None: ...

class ReadLogResponse(_message.Message):
    __slots__ = ("text",)
    TEXT_FIELD_NUMBER: _ClassVar[int]
    text: str
    def __init__(self, text: _Optional[str] = ...) -> None: ...

class MissingBlobsRequest(_message.Message):
    __slots__ = ("digests",)
    DIGESTS_FIELD_NUMBER: _ClassVar[int]
    digests: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, digests: _Optional[_Iterable[str]] = ...) -> None: ...

class MissingBlobsResponse(_message.Message):
    __slots__ = ("digests",)
    DIGESTS_FIELD_NUMBER: _ClassVar[int]
    digests: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, digests: _Optional[_Iterable[str]] = ...) -> None: ...

class NoteNotebookRequest(_message.Message):
    __slots__ = ("session_id", "notebook_id", "kernel_generation", "facts")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    NOTEBOOK_ID_FIELD_NUMBER: _ClassVar[int]
    KERNEL_GENERATION_FIELD_NUMBER: _ClassVar[int]
    FACTS_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    notebook_id: str
    kernel_generation: int
    facts: _pool_pb2.NotebookFacts
    def __init__(self, session_id: _Optional[str] = ..., notebook_id: _Optional[str] = ..., kernel_generation: _Optional[int] = ..., facts: _Optional[_Union[_pool_pb2.NotebookFacts, _Mapping]] = ...) -> None: ...

class NoteNotebookResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class NoteShownRequest(_message.Message):
    __slots__ = ("session_id", "request_ids")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_IDS_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    request_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, session_id: _Optional[str] = ..., request_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class NoteShownResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
