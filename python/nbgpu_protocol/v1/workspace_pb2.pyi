from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ListRequest(_message.Message):
    __slots__ = ("session_id", "workspace_id", "patterns")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    WORKSPACE_ID_FIELD_NUMBER: _ClassVar[int]
    PATTERNS_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    workspace_id: str
    patterns: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, session_id: _Optional[str] = ..., workspace_id: _Optional[str] = ..., patterns: _Optional[_Iterable[str]] = ...) -> None: ...

class ListResponse(_message.Message):
    __slots__ = ("files", "noted", "patterns")
    FILES_FIELD_NUMBER: _ClassVar[int]
    NOTED_FIELD_NUMBER: _ClassVar[int]
    PATTERNS_FIELD_NUMBER: _ClassVar[int]
    files: _containers.RepeatedCompositeFieldContainer[ListedFile]
    noted: _containers.RepeatedCompositeFieldContainer[NotedVersion]
    patterns: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, files: _Optional[_Iterable[_Union[ListedFile, _Mapping]]] = ..., noted: _Optional[_Iterable[_Union[NotedVersion, _Mapping]]] = ..., patterns: _Optional[_Iterable[str]] = ...) -> None: ...

class ListedFile(_message.Message):
    __slots__ = ("path", "size_bytes", "version", "special")
    PATH_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SPECIAL_FIELD_NUMBER: _ClassVar[int]
    path: str
    size_bytes: int
    version: str
    special: bool
    def __init__(self, path: _Optional[str] = ..., size_bytes: _Optional[int] = ..., version: _Optional[str] = ..., special: bool = ...) -> None: ...

class NotedVersion(_message.Message):
    __slots__ = ("path", "version")
    PATH_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    path: str
    version: str
    def __init__(self, path: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class InspectRequest(_message.Message):
    __slots__ = ("session_id", "paths")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    PATHS_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    paths: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, session_id: _Optional[str] = ..., paths: _Optional[_Iterable[str]] = ...) -> None: ...

class InspectResponse(_message.Message):
    __slots__ = ("path", "version", "size_bytes", "modified_unix_ns", "piece_digests")
    PATH_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MODIFIED_UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    PIECE_DIGESTS_FIELD_NUMBER: _ClassVar[int]
    path: str
    version: str
    size_bytes: int
    modified_unix_ns: int
    piece_digests: bytes
    def __init__(self, path: _Optional[str] = ..., version: _Optional[str] = ..., size_bytes: _Optional[int] = ..., modified_unix_ns: _Optional[int] = ..., piece_digests: _Optional[bytes] = ...) -> None: ...

class ApplyRequest(_message.Message):
    __slots__ = ("session_id", "workspace_id", "changes")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    WORKSPACE_ID_FIELD_NUMBER: _ClassVar[int]
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    workspace_id: str
    changes: _containers.RepeatedCompositeFieldContainer[Change]
    def __init__(self, session_id: _Optional[str] = ..., workspace_id: _Optional[str] = ..., changes: _Optional[_Iterable[_Union[Change, _Mapping]]] = ...) -> None: ...

class Change(_message.Message):
    __slots__ = ("path", "expected_version", "keep_present", "part", "link_target", "remove")
    PATH_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_VERSION_FIELD_NUMBER: _ClassVar[int]
    KEEP_PRESENT_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    LINK_TARGET_FIELD_NUMBER: _ClassVar[int]
    REMOVE_FIELD_NUMBER: _ClassVar[int]
    path: str
    expected_version: str
    keep_present: bool
    part: FilePart
    link_target: str
    remove: bool
    def __init__(self, path: _Optional[str] = ..., expected_version: _Optional[str] = ..., keep_present: bool = ..., part: _Optional[_Union[FilePart, _Mapping]] = ..., link_target: _Optional[str] = ..., remove: bool = ...) -> None: ...

class FilePart(_message.Message):
    __slots__ = ("version", "size_bytes", "offset_bytes", "piece_digests", "modified_unix_ns")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    OFFSET_BYTES_FIELD_NUMBER: _ClassVar[int]
    PIECE_DIGESTS_FIELD_NUMBER: _ClassVar[int]
    MODIFIED_UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    version: str
    size_bytes: int
    offset_bytes: int
    piece_digests: _containers.RepeatedScalarFieldContainer[str]
    modified_unix_ns: int
    def __init__(self, version: _Optional[str] = ..., size_bytes: _Optional[int] = ..., offset_bytes: _Optional[int] = ..., piece_digests: _Optional[_Iterable[str]] = ..., modified_unix_ns: _Optional[int] = ...) -> None: ...

class Outcome(_message.Message):
    __slots__ = ("path", "result", "staged_bytes", "kept_path", "why")
    class Result(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        RESULT_UNSPECIFIED: _ClassVar[Outcome.Result]
        DONE: _ClassVar[Outcome.Result]
        STAGED: _ClassVar[Outcome.Result]
        CHANGED: _ClassVar[Outcome.Result]
        REFUSED: _ClassVar[Outcome.Result]
    RESULT_UNSPECIFIED: Outcome.Result
    DONE: Outcome.Result
    STAGED: Outcome.Result
    CHANGED: Outcome.Result
    REFUSED: Outcome.Result
    PATH_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    STAGED_BYTES_FIELD_NUMBER: _ClassVar[int]
    KEPT_PATH_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    path: str
    result: Outcome.Result
    staged_bytes: int
    kept_path: str
    why: str
    def __init__(self, path: _Optional[str] = ..., result: _Optional[_Union[Outcome.Result, str]] = ..., staged_bytes: _Optional[int] = ..., kept_path: _Optional[str] = ..., why: _Optional[str] = ...) -> None: ...

class ApplyResponse(_message.Message):
    __slots__ = ("outcomes",)
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    outcomes: _containers.RepeatedCompositeFieldContainer[Outcome]
    def __init__(self, outcomes: _Optional[_Iterable[_Union[Outcome, _Mapping]]] = ...) -> None: ...

class NoteRequest(_message.Message):
    __slots__ = ("session_id", "workspace_id", "noted", "patterns")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    WORKSPACE_ID_FIELD_NUMBER: _ClassVar[int]
    NOTED_FIELD_NUMBER: _ClassVar[int]
    PATTERNS_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    workspace_id: str
    noted: _containers.RepeatedCompositeFieldContainer[NotedVersion]
    patterns: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, session_id: _Optional[str] = ..., workspace_id: _Optional[str] = ..., noted: _Optional[_Iterable[_Union[NotedVersion, _Mapping]]] = ..., patterns: _Optional[_Iterable[str]] = ...) -> None: ...

class NoteResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ReadRequest(_message.Message):
    __slots__ = ("session_id", "path", "offset_bytes")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    OFFSET_BYTES_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    path: str
    offset_bytes: int
    def __init__(self, session_id: _Optional[str] = ..., path: _Optional[str] = ..., offset_bytes: _Optional[int] = ...) -> None: ...
