from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Reason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REASON_UNSPECIFIED: _ClassVar[Reason]
    VERSION_MISMATCH: _ClassVar[Reason]
    UNAUTHENTICATED: _ClassVar[Reason]
    NO_SUCH_ACCELERATOR: _ClassVar[Reason]
    CAN_NEVER_FIT: _ClassVar[Reason]
    NO_SUCH_SESSION: _ClassVar[Reason]
    BUSY: _ClassVar[Reason]
    KERNEL_FAILED: _ClassVar[Reason]
    KERNEL_DIED: _ClassVar[Reason]
    SESSIONS_OPEN: _ClassVar[Reason]
    NOT_IMPLEMENTED: _ClassVar[Reason]
    INVALID_REQUEST: _ClassVar[Reason]
    NO_SUCH_BLOB: _ClassVar[Reason]
    DIGEST_MISMATCH: _ClassVar[Reason]
    SHUTTING_DOWN: _ClassVar[Reason]
    INTERNAL: _ClassVar[Reason]
    ADDRESS_REFUSED: _ClassVar[Reason]
    INTERPRETER_REFUSED: _ClassVar[Reason]
    ENVIRONMENT_IMPOSSIBLE: _ClassVar[Reason]
    BUILD_FAILED: _ClassVar[Reason]
    DISK_FULL: _ClassVar[Reason]
    LIMIT_REACHED: _ClassVar[Reason]
    TOO_MANY_ATTEMPTS: _ClassVar[Reason]
    CODE_REFUSED: _ClassVar[Reason]

class Isolation(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ISOLATION_UNSPECIFIED: _ClassVar[Isolation]
    ISOLATION_NONE: _ClassVar[Isolation]
    ISOLATION_OS_USERS: _ClassVar[Isolation]
    ISOLATION_BUBBLEWRAP: _ClassVar[Isolation]

class Phase(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PHASE_UNSPECIFIED: _ClassVar[Phase]
    QUEUED: _ClassVar[Phase]
    PLACING: _ClassVar[Phase]
    MATERIALISING: _ClassVar[Phase]
    STARTING: _ClassVar[Phase]
    READY: _ClassVar[Phase]
    CLOSED: _ClassVar[Phase]

class KernelState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    KERNEL_STATE_UNSPECIFIED: _ClassVar[KernelState]
    KERNEL_STARTING: _ClassVar[KernelState]
    KERNEL_IDLE: _ClassVar[KernelState]
    KERNEL_EXECUTING: _ClassVar[KernelState]
    KERNEL_DEAD: _ClassVar[KernelState]

class ExecutionState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EXECUTION_STATE_UNSPECIFIED: _ClassVar[ExecutionState]
    EXECUTION_WAITING: _ClassVar[ExecutionState]
    EXECUTION_RUNNING: _ClassVar[ExecutionState]
    EXECUTION_SUCCEEDED: _ClassVar[ExecutionState]
    EXECUTION_FAILED: _ClassVar[ExecutionState]
    EXECUTION_LOST: _ClassVar[ExecutionState]
REASON_UNSPECIFIED: Reason
VERSION_MISMATCH: Reason
UNAUTHENTICATED: Reason
NO_SUCH_ACCELERATOR: Reason
CAN_NEVER_FIT: Reason
NO_SUCH_SESSION: Reason
BUSY: Reason
KERNEL_FAILED: Reason
KERNEL_DIED: Reason
SESSIONS_OPEN: Reason
NOT_IMPLEMENTED: Reason
INVALID_REQUEST: Reason
NO_SUCH_BLOB: Reason
DIGEST_MISMATCH: Reason
SHUTTING_DOWN: Reason
INTERNAL: Reason
ADDRESS_REFUSED: Reason
INTERPRETER_REFUSED: Reason
ENVIRONMENT_IMPOSSIBLE: Reason
BUILD_FAILED: Reason
DISK_FULL: Reason
LIMIT_REACHED: Reason
TOO_MANY_ATTEMPTS: Reason
CODE_REFUSED: Reason
ISOLATION_UNSPECIFIED: Isolation
ISOLATION_NONE: Isolation
ISOLATION_OS_USERS: Isolation
ISOLATION_BUBBLEWRAP: Isolation
PHASE_UNSPECIFIED: Phase
QUEUED: Phase
PLACING: Phase
MATERIALISING: Phase
STARTING: Phase
READY: Phase
CLOSED: Phase
KERNEL_STATE_UNSPECIFIED: KernelState
KERNEL_STARTING: KernelState
KERNEL_IDLE: KernelState
KERNEL_EXECUTING: KernelState
KERNEL_DEAD: KernelState
EXECUTION_STATE_UNSPECIFIED: ExecutionState
EXECUTION_WAITING: ExecutionState
EXECUTION_RUNNING: ExecutionState
EXECUTION_SUCCEEDED: ExecutionState
EXECUTION_FAILED: ExecutionState
EXECUTION_LOST: ExecutionState

class Error(_message.Message):
    __slots__ = ("reason", "message", "hint")
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    HINT_FIELD_NUMBER: _ClassVar[int]
    reason: Reason
    message: str
    hint: str
    def __init__(self, reason: _Optional[_Union[Reason, str]] = ..., message: _Optional[str] = ..., hint: _Optional[str] = ...) -> None: ...

class HandshakeRequest(_message.Message):
    __slots__ = ("protocol_version", "client_version")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    CLIENT_VERSION_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    client_version: str
    def __init__(self, protocol_version: _Optional[int] = ..., client_version: _Optional[str] = ...) -> None: ...

class HandshakeResponse(_message.Message):
    __slots__ = ("protocol_version", "agent_version", "node", "capabilities", "embedded", "pid", "user", "administrator", "isolation", "isolation_problem", "isolation_hint")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    AGENT_VERSION_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    CAPABILITIES_FIELD_NUMBER: _ClassVar[int]
    EMBEDDED_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    USER_FIELD_NUMBER: _ClassVar[int]
    ADMINISTRATOR_FIELD_NUMBER: _ClassVar[int]
    ISOLATION_FIELD_NUMBER: _ClassVar[int]
    ISOLATION_PROBLEM_FIELD_NUMBER: _ClassVar[int]
    ISOLATION_HINT_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    agent_version: str
    node: Node
    capabilities: _containers.RepeatedScalarFieldContainer[str]
    embedded: bool
    pid: int
    user: str
    administrator: bool
    isolation: Isolation
    isolation_problem: str
    isolation_hint: str
    def __init__(self, protocol_version: _Optional[int] = ..., agent_version: _Optional[str] = ..., node: _Optional[_Union[Node, _Mapping]] = ..., capabilities: _Optional[_Iterable[str]] = ..., embedded: bool = ..., pid: _Optional[int] = ..., user: _Optional[str] = ..., administrator: bool = ..., isolation: _Optional[_Union[Isolation, str]] = ..., isolation_problem: _Optional[str] = ..., isolation_hint: _Optional[str] = ...) -> None: ...

class Node(_message.Message):
    __slots__ = ("id", "hostname", "platform", "cpu_count", "memory_bytes", "driver_version")
    ID_FIELD_NUMBER: _ClassVar[int]
    HOSTNAME_FIELD_NUMBER: _ClassVar[int]
    PLATFORM_FIELD_NUMBER: _ClassVar[int]
    CPU_COUNT_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    DRIVER_VERSION_FIELD_NUMBER: _ClassVar[int]
    id: str
    hostname: str
    platform: str
    cpu_count: int
    memory_bytes: int
    driver_version: str
    def __init__(self, id: _Optional[str] = ..., hostname: _Optional[str] = ..., platform: _Optional[str] = ..., cpu_count: _Optional[int] = ..., memory_bytes: _Optional[int] = ..., driver_version: _Optional[str] = ...) -> None: ...

class Accelerator(_message.Message):
    __slots__ = ("id", "index", "type", "product_name", "memory_bytes", "simulated", "shared", "node_id", "session_id", "parent_id", "other_user")
    ID_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    PRODUCT_NAME_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    SIMULATED_FIELD_NUMBER: _ClassVar[int]
    SHARED_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    PARENT_ID_FIELD_NUMBER: _ClassVar[int]
    OTHER_USER_FIELD_NUMBER: _ClassVar[int]
    id: str
    index: int
    type: str
    product_name: str
    memory_bytes: int
    simulated: bool
    shared: bool
    node_id: str
    session_id: str
    parent_id: str
    other_user: bool
    def __init__(self, id: _Optional[str] = ..., index: _Optional[int] = ..., type: _Optional[str] = ..., product_name: _Optional[str] = ..., memory_bytes: _Optional[int] = ..., simulated: bool = ..., shared: bool = ..., node_id: _Optional[str] = ..., session_id: _Optional[str] = ..., parent_id: _Optional[str] = ..., other_user: bool = ...) -> None: ...

class Offer(_message.Message):
    __slots__ = ("type", "memory_bytes", "total", "free", "queued", "simulated", "shared", "node_hostname", "price_per_hour", "currency")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    FREE_FIELD_NUMBER: _ClassVar[int]
    QUEUED_FIELD_NUMBER: _ClassVar[int]
    SIMULATED_FIELD_NUMBER: _ClassVar[int]
    SHARED_FIELD_NUMBER: _ClassVar[int]
    NODE_HOSTNAME_FIELD_NUMBER: _ClassVar[int]
    PRICE_PER_HOUR_FIELD_NUMBER: _ClassVar[int]
    CURRENCY_FIELD_NUMBER: _ClassVar[int]
    type: str
    memory_bytes: int
    total: int
    free: int
    queued: int
    simulated: bool
    shared: bool
    node_hostname: str
    price_per_hour: float
    currency: str
    def __init__(self, type: _Optional[str] = ..., memory_bytes: _Optional[int] = ..., total: _Optional[int] = ..., free: _Optional[int] = ..., queued: _Optional[int] = ..., simulated: bool = ..., shared: bool = ..., node_hostname: _Optional[str] = ..., price_per_hour: _Optional[float] = ..., currency: _Optional[str] = ...) -> None: ...

class ListOffersRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListOffersResponse(_message.Message):
    __slots__ = ("offers",)
    OFFERS_FIELD_NUMBER: _ClassVar[int]
    offers: _containers.RepeatedCompositeFieldContainer[Offer]
    def __init__(self, offers: _Optional[_Iterable[_Union[Offer, _Mapping]]] = ...) -> None: ...

class WatchPoolRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class PoolState(_message.Message):
    __slots__ = ("offers", "accelerators", "sessions", "node", "time_unix_s")
    OFFERS_FIELD_NUMBER: _ClassVar[int]
    ACCELERATORS_FIELD_NUMBER: _ClassVar[int]
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    TIME_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    offers: _containers.RepeatedCompositeFieldContainer[Offer]
    accelerators: _containers.RepeatedCompositeFieldContainer[Accelerator]
    sessions: _containers.RepeatedCompositeFieldContainer[SessionInfo]
    node: Node
    time_unix_s: float
    def __init__(self, offers: _Optional[_Iterable[_Union[Offer, _Mapping]]] = ..., accelerators: _Optional[_Iterable[_Union[Accelerator, _Mapping]]] = ..., sessions: _Optional[_Iterable[_Union[SessionInfo, _Mapping]]] = ..., node: _Optional[_Union[Node, _Mapping]] = ..., time_unix_s: _Optional[float] = ...) -> None: ...

class Spec(_message.Message):
    __slots__ = ("alternatives", "text")
    ALTERNATIVES_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    alternatives: _containers.RepeatedCompositeFieldContainer[Alternative]
    text: str
    def __init__(self, alternatives: _Optional[_Iterable[_Union[Alternative, _Mapping]]] = ..., text: _Optional[str] = ...) -> None: ...

class Alternative(_message.Message):
    __slots__ = ("type", "count", "min_memory_bytes")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    MIN_MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    type: str
    count: int
    min_memory_bytes: int
    def __init__(self, type: _Optional[str] = ..., count: _Optional[int] = ..., min_memory_bytes: _Optional[int] = ...) -> None: ...

class OpenSessionRequest(_message.Message):
    __slots__ = ("spec", "notebook_id", "notebook_name", "python", "working_folder", "no_wait", "existing_only", "snapshot_digest", "idle_close_s", "notebook_key")
    SPEC_FIELD_NUMBER: _ClassVar[int]
    NOTEBOOK_ID_FIELD_NUMBER: _ClassVar[int]
    NOTEBOOK_NAME_FIELD_NUMBER: _ClassVar[int]
    PYTHON_FIELD_NUMBER: _ClassVar[int]
    WORKING_FOLDER_FIELD_NUMBER: _ClassVar[int]
    NO_WAIT_FIELD_NUMBER: _ClassVar[int]
    EXISTING_ONLY_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_DIGEST_FIELD_NUMBER: _ClassVar[int]
    IDLE_CLOSE_S_FIELD_NUMBER: _ClassVar[int]
    NOTEBOOK_KEY_FIELD_NUMBER: _ClassVar[int]
    spec: Spec
    notebook_id: str
    notebook_name: str
    python: str
    working_folder: str
    no_wait: bool
    existing_only: bool
    snapshot_digest: str
    idle_close_s: float
    notebook_key: str
    def __init__(self, spec: _Optional[_Union[Spec, _Mapping]] = ..., notebook_id: _Optional[str] = ..., notebook_name: _Optional[str] = ..., python: _Optional[str] = ..., working_folder: _Optional[str] = ..., no_wait: bool = ..., existing_only: bool = ..., snapshot_digest: _Optional[str] = ..., idle_close_s: _Optional[float] = ..., notebook_key: _Optional[str] = ...) -> None: ...

class SessionUpdate(_message.Message):
    __slots__ = ("phase", "queue_position", "queue_length", "detail", "session", "existing", "notice")
    PHASE_FIELD_NUMBER: _ClassVar[int]
    QUEUE_POSITION_FIELD_NUMBER: _ClassVar[int]
    QUEUE_LENGTH_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    EXISTING_FIELD_NUMBER: _ClassVar[int]
    NOTICE_FIELD_NUMBER: _ClassVar[int]
    phase: Phase
    queue_position: int
    queue_length: int
    detail: str
    session: SessionInfo
    existing: bool
    notice: str
    def __init__(self, phase: _Optional[_Union[Phase, str]] = ..., queue_position: _Optional[int] = ..., queue_length: _Optional[int] = ..., detail: _Optional[str] = ..., session: _Optional[_Union[SessionInfo, _Mapping]] = ..., existing: bool = ..., notice: _Optional[str] = ...) -> None: ...

class Lease(_message.Message):
    __slots__ = ("id", "accelerator_ids", "granted_unix_s", "expires_unix_s")
    ID_FIELD_NUMBER: _ClassVar[int]
    ACCELERATOR_IDS_FIELD_NUMBER: _ClassVar[int]
    GRANTED_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    id: str
    accelerator_ids: _containers.RepeatedScalarFieldContainer[str]
    granted_unix_s: float
    expires_unix_s: float
    def __init__(self, id: _Optional[str] = ..., accelerator_ids: _Optional[_Iterable[str]] = ..., granted_unix_s: _Optional[float] = ..., expires_unix_s: _Optional[float] = ...) -> None: ...

class SessionInfo(_message.Message):
    __slots__ = ("id", "notebook_id", "notebook_name", "spec_text", "phase", "lease", "accelerators", "node", "kernel_state", "kernel_generation", "created_unix_s", "last_active_unix_s", "executing", "executions", "kernel_exit", "python_version", "working_folder", "queue_position", "queue_length", "detail", "environment", "accelerator_seconds", "cost", "cost_per_hour", "currency", "last_executions", "journal_problem", "attached_unix_s", "closing", "owner", "notebook", "notebook_key", "notebook_connected")
    ID_FIELD_NUMBER: _ClassVar[int]
    NOTEBOOK_ID_FIELD_NUMBER: _ClassVar[int]
    NOTEBOOK_NAME_FIELD_NUMBER: _ClassVar[int]
    SPEC_TEXT_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    ACCELERATORS_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    KERNEL_STATE_FIELD_NUMBER: _ClassVar[int]
    KERNEL_GENERATION_FIELD_NUMBER: _ClassVar[int]
    CREATED_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    LAST_ACTIVE_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    EXECUTING_FIELD_NUMBER: _ClassVar[int]
    EXECUTIONS_FIELD_NUMBER: _ClassVar[int]
    KERNEL_EXIT_FIELD_NUMBER: _ClassVar[int]
    PYTHON_VERSION_FIELD_NUMBER: _ClassVar[int]
    WORKING_FOLDER_FIELD_NUMBER: _ClassVar[int]
    QUEUE_POSITION_FIELD_NUMBER: _ClassVar[int]
    QUEUE_LENGTH_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    ENVIRONMENT_FIELD_NUMBER: _ClassVar[int]
    ACCELERATOR_SECONDS_FIELD_NUMBER: _ClassVar[int]
    COST_FIELD_NUMBER: _ClassVar[int]
    COST_PER_HOUR_FIELD_NUMBER: _ClassVar[int]
    CURRENCY_FIELD_NUMBER: _ClassVar[int]
    LAST_EXECUTIONS_FIELD_NUMBER: _ClassVar[int]
    JOURNAL_PROBLEM_FIELD_NUMBER: _ClassVar[int]
    ATTACHED_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    CLOSING_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    NOTEBOOK_FIELD_NUMBER: _ClassVar[int]
    NOTEBOOK_KEY_FIELD_NUMBER: _ClassVar[int]
    NOTEBOOK_CONNECTED_FIELD_NUMBER: _ClassVar[int]
    id: str
    notebook_id: str
    notebook_name: str
    spec_text: str
    phase: Phase
    lease: Lease
    accelerators: _containers.RepeatedCompositeFieldContainer[Accelerator]
    node: Node
    kernel_state: KernelState
    kernel_generation: int
    created_unix_s: float
    last_active_unix_s: float
    executing: Execution
    executions: int
    kernel_exit: KernelExit
    python_version: str
    working_folder: str
    queue_position: int
    queue_length: int
    detail: str
    environment: EnvironmentFacts
    accelerator_seconds: float
    cost: float
    cost_per_hour: float
    currency: str
    last_executions: _containers.RepeatedCompositeFieldContainer[Execution]
    journal_problem: str
    attached_unix_s: float
    closing: Closing
    owner: str
    notebook: NotebookFacts
    notebook_key: str
    notebook_connected: bool
    def __init__(self, id: _Optional[str] = ..., notebook_id: _Optional[str] = ..., notebook_name: _Optional[str] = ..., spec_text: _Optional[str] = ..., phase: _Optional[_Union[Phase, str]] = ..., lease: _Optional[_Union[Lease, _Mapping]] = ..., accelerators: _Optional[_Iterable[_Union[Accelerator, _Mapping]]] = ..., node: _Optional[_Union[Node, _Mapping]] = ..., kernel_state: _Optional[_Union[KernelState, str]] = ..., kernel_generation: _Optional[int] = ..., created_unix_s: _Optional[float] = ..., last_active_unix_s: _Optional[float] = ..., executing: _Optional[_Union[Execution, _Mapping]] = ..., executions: _Optional[int] = ..., kernel_exit: _Optional[_Union[KernelExit, _Mapping]] = ..., python_version: _Optional[str] = ..., working_folder: _Optional[str] = ..., queue_position: _Optional[int] = ..., queue_length: _Optional[int] = ..., detail: _Optional[str] = ..., environment: _Optional[_Union[EnvironmentFacts, _Mapping]] = ..., accelerator_seconds: _Optional[float] = ..., cost: _Optional[float] = ..., cost_per_hour: _Optional[float] = ..., currency: _Optional[str] = ..., last_executions: _Optional[_Iterable[_Union[Execution, _Mapping]]] = ..., journal_problem: _Optional[str] = ..., attached_unix_s: _Optional[float] = ..., closing: _Optional[_Union[Closing, _Mapping]] = ..., owner: _Optional[str] = ..., notebook: _Optional[_Union[NotebookFacts, _Mapping]] = ..., notebook_key: _Optional[str] = ..., notebook_connected: bool = ...) -> None: ...

class Closing(_message.Message):
    __slots__ = ("idle_close_s", "idle_since_unix_s", "closes_unix_s", "warn_unix_s", "cause")
    class Cause(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        CAUSE_UNSPECIFIED: _ClassVar[Closing.Cause]
        IDLE: _ClassVar[Closing.Cause]
        LIFETIME: _ClassVar[Closing.Cause]
        LEASE: _ClassVar[Closing.Cause]
        BUDGET: _ClassVar[Closing.Cause]
    CAUSE_UNSPECIFIED: Closing.Cause
    IDLE: Closing.Cause
    LIFETIME: Closing.Cause
    LEASE: Closing.Cause
    BUDGET: Closing.Cause
    IDLE_CLOSE_S_FIELD_NUMBER: _ClassVar[int]
    IDLE_SINCE_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    CLOSES_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    WARN_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    idle_close_s: float
    idle_since_unix_s: float
    closes_unix_s: float
    warn_unix_s: float
    cause: Closing.Cause
    def __init__(self, idle_close_s: _Optional[float] = ..., idle_since_unix_s: _Optional[float] = ..., closes_unix_s: _Optional[float] = ..., warn_unix_s: _Optional[float] = ..., cause: _Optional[_Union[Closing.Cause, str]] = ...) -> None: ...

class NotebookFacts(_message.Message):
    __slots__ = ("difference", "variables")
    DIFFERENCE_FIELD_NUMBER: _ClassVar[int]
    VARIABLES_FIELD_NUMBER: _ClassVar[int]
    difference: EnvironmentDifference
    variables: SharedVariables
    def __init__(self, difference: _Optional[_Union[EnvironmentDifference, _Mapping]] = ..., variables: _Optional[_Union[SharedVariables, _Mapping]] = ...) -> None: ...

class EnvironmentDifference(_message.Message):
    __slots__ = ("package_count", "packages", "file_count", "files", "variables")
    PACKAGE_COUNT_FIELD_NUMBER: _ClassVar[int]
    PACKAGES_FIELD_NUMBER: _ClassVar[int]
    FILE_COUNT_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    VARIABLES_FIELD_NUMBER: _ClassVar[int]
    package_count: int
    packages: _containers.RepeatedCompositeFieldContainer[PackageChange]
    file_count: int
    files: _containers.RepeatedScalarFieldContainer[str]
    variables: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, package_count: _Optional[int] = ..., packages: _Optional[_Iterable[_Union[PackageChange, _Mapping]]] = ..., file_count: _Optional[int] = ..., files: _Optional[_Iterable[str]] = ..., variables: _Optional[_Iterable[str]] = ...) -> None: ...

class PackageChange(_message.Message):
    __slots__ = ("name", "before", "now")
    NAME_FIELD_NUMBER: _ClassVar[int]
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    NOW_FIELD_NUMBER: _ClassVar[int]
    name: str
    before: str
    now: str
    def __init__(self, name: _Optional[str] = ..., before: _Optional[str] = ..., now: _Optional[str] = ...) -> None: ...

class SharedVariables(_message.Message):
    __slots__ = ("sent_count", "sent", "handle_count", "handles", "sent_bytes")
    SENT_COUNT_FIELD_NUMBER: _ClassVar[int]
    SENT_FIELD_NUMBER: _ClassVar[int]
    HANDLE_COUNT_FIELD_NUMBER: _ClassVar[int]
    HANDLES_FIELD_NUMBER: _ClassVar[int]
    SENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    sent_count: int
    sent: _containers.RepeatedCompositeFieldContainer[SharedVariable]
    handle_count: int
    handles: _containers.RepeatedCompositeFieldContainer[SharedVariable]
    sent_bytes: int
    def __init__(self, sent_count: _Optional[int] = ..., sent: _Optional[_Iterable[_Union[SharedVariable, _Mapping]]] = ..., handle_count: _Optional[int] = ..., handles: _Optional[_Iterable[_Union[SharedVariable, _Mapping]]] = ..., sent_bytes: _Optional[int] = ...) -> None: ...

class SharedVariable(_message.Message):
    __slots__ = ("name", "size_bytes")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    name: str
    size_bytes: int
    def __init__(self, name: _Optional[str] = ..., size_bytes: _Optional[int] = ...) -> None: ...

class EnvironmentFacts(_message.Message):
    __slots__ = ("own", "package_count", "done", "total", "current")
    OWN_FIELD_NUMBER: _ClassVar[int]
    PACKAGE_COUNT_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    CURRENT_FIELD_NUMBER: _ClassVar[int]
    own: bool
    package_count: int
    done: int
    total: int
    current: str
    def __init__(self, own: bool = ..., package_count: _Optional[int] = ..., done: _Optional[int] = ..., total: _Optional[int] = ..., current: _Optional[str] = ...) -> None: ...

class Execution(_message.Message):
    __slots__ = ("request_id", "execution_count", "started_unix_s", "message_id", "ended_unix_s", "succeeded", "accelerator_types", "simulated", "mean_utilisation_percent", "peak_memory_bytes", "cost", "currency", "state", "cell_id", "code_digest", "first_number", "last_number", "source_digest", "saved", "shown_before", "shown", "attended", "notebook_id", "kernel_generation")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    EXECUTION_COUNT_FIELD_NUMBER: _ClassVar[int]
    STARTED_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_ID_FIELD_NUMBER: _ClassVar[int]
    ENDED_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    SUCCEEDED_FIELD_NUMBER: _ClassVar[int]
    ACCELERATOR_TYPES_FIELD_NUMBER: _ClassVar[int]
    SIMULATED_FIELD_NUMBER: _ClassVar[int]
    MEAN_UTILISATION_PERCENT_FIELD_NUMBER: _ClassVar[int]
    PEAK_MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    COST_FIELD_NUMBER: _ClassVar[int]
    CURRENCY_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    CELL_ID_FIELD_NUMBER: _ClassVar[int]
    CODE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    FIRST_NUMBER_FIELD_NUMBER: _ClassVar[int]
    LAST_NUMBER_FIELD_NUMBER: _ClassVar[int]
    SOURCE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    SAVED_FIELD_NUMBER: _ClassVar[int]
    SHOWN_BEFORE_FIELD_NUMBER: _ClassVar[int]
    SHOWN_FIELD_NUMBER: _ClassVar[int]
    ATTENDED_FIELD_NUMBER: _ClassVar[int]
    NOTEBOOK_ID_FIELD_NUMBER: _ClassVar[int]
    KERNEL_GENERATION_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    execution_count: int
    started_unix_s: float
    message_id: str
    ended_unix_s: float
    succeeded: bool
    accelerator_types: _containers.RepeatedScalarFieldContainer[str]
    simulated: bool
    mean_utilisation_percent: float
    peak_memory_bytes: int
    cost: float
    currency: str
    state: ExecutionState
    cell_id: str
    code_digest: str
    first_number: int
    last_number: int
    source_digest: str
    saved: bool
    shown_before: str
    shown: bool
    attended: bool
    notebook_id: str
    kernel_generation: int
    def __init__(self, request_id: _Optional[str] = ..., execution_count: _Optional[int] = ..., started_unix_s: _Optional[float] = ..., message_id: _Optional[str] = ..., ended_unix_s: _Optional[float] = ..., succeeded: bool = ..., accelerator_types: _Optional[_Iterable[str]] = ..., simulated: bool = ..., mean_utilisation_percent: _Optional[float] = ..., peak_memory_bytes: _Optional[int] = ..., cost: _Optional[float] = ..., currency: _Optional[str] = ..., state: _Optional[_Union[ExecutionState, str]] = ..., cell_id: _Optional[str] = ..., code_digest: _Optional[str] = ..., first_number: _Optional[int] = ..., last_number: _Optional[int] = ..., source_digest: _Optional[str] = ..., saved: bool = ..., shown_before: _Optional[str] = ..., shown: bool = ..., attended: bool = ..., notebook_id: _Optional[str] = ..., kernel_generation: _Optional[int] = ...) -> None: ...

class KernelExit(_message.Message):
    __slots__ = ("exit_code", "signal", "stderr_tail", "asked_for", "ended_because")
    EXIT_CODE_FIELD_NUMBER: _ClassVar[int]
    SIGNAL_FIELD_NUMBER: _ClassVar[int]
    STDERR_TAIL_FIELD_NUMBER: _ClassVar[int]
    ASKED_FOR_FIELD_NUMBER: _ClassVar[int]
    ENDED_BECAUSE_FIELD_NUMBER: _ClassVar[int]
    exit_code: int
    signal: int
    stderr_tail: str
    asked_for: bool
    ended_because: str
    def __init__(self, exit_code: _Optional[int] = ..., signal: _Optional[int] = ..., stderr_tail: _Optional[str] = ..., asked_for: bool = ..., ended_because: _Optional[str] = ...) -> None: ...

class ListSessionsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListSessionsResponse(_message.Message):
    __slots__ = ("sessions", "time_unix_s")
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    TIME_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    sessions: _containers.RepeatedCompositeFieldContainer[SessionInfo]
    time_unix_s: float
    def __init__(self, sessions: _Optional[_Iterable[_Union[SessionInfo, _Mapping]]] = ..., time_unix_s: _Optional[float] = ...) -> None: ...

class RenewLeaseRequest(_message.Message):
    __slots__ = ("session_id", "duration_s", "idle_close_s")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    DURATION_S_FIELD_NUMBER: _ClassVar[int]
    IDLE_CLOSE_S_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    duration_s: float
    idle_close_s: float
    def __init__(self, session_id: _Optional[str] = ..., duration_s: _Optional[float] = ..., idle_close_s: _Optional[float] = ...) -> None: ...

class RenewLeaseResponse(_message.Message):
    __slots__ = ("lease",)
    LEASE_FIELD_NUMBER: _ClassVar[int]
    lease: Lease
    def __init__(self, lease: _Optional[_Union[Lease, _Mapping]] = ...) -> None: ...

class AttachSessionRequest(_message.Message):
    __slots__ = ("session_id", "notebook_id", "notebook_name", "notebook_key")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    NOTEBOOK_ID_FIELD_NUMBER: _ClassVar[int]
    NOTEBOOK_NAME_FIELD_NUMBER: _ClassVar[int]
    NOTEBOOK_KEY_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    notebook_id: str
    notebook_name: str
    notebook_key: str
    def __init__(self, session_id: _Optional[str] = ..., notebook_id: _Optional[str] = ..., notebook_name: _Optional[str] = ..., notebook_key: _Optional[str] = ...) -> None: ...

class AttachSessionResponse(_message.Message):
    __slots__ = ("session",)
    SESSION_FIELD_NUMBER: _ClassVar[int]
    session: SessionInfo
    def __init__(self, session: _Optional[_Union[SessionInfo, _Mapping]] = ...) -> None: ...

class DetachSessionRequest(_message.Message):
    __slots__ = ("session_id",)
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    def __init__(self, session_id: _Optional[str] = ...) -> None: ...

class DetachSessionResponse(_message.Message):
    __slots__ = ("session",)
    SESSION_FIELD_NUMBER: _ClassVar[int]
    session: SessionInfo
    def __init__(self, session: _Optional[_Union[SessionInfo, _Mapping]] = ...) -> None: ...

class CloseSessionRequest(_message.Message):
    __slots__ = ("session_id",)
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    def __init__(self, session_id: _Optional[str] = ...) -> None: ...

class CloseSessionResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WatchSamplesRequest(_message.Message):
    __slots__ = ("history_s", "accelerator_ids", "history_only")
    HISTORY_S_FIELD_NUMBER: _ClassVar[int]
    ACCELERATOR_IDS_FIELD_NUMBER: _ClassVar[int]
    HISTORY_ONLY_FIELD_NUMBER: _ClassVar[int]
    history_s: float
    accelerator_ids: _containers.RepeatedScalarFieldContainer[str]
    history_only: bool
    def __init__(self, history_s: _Optional[float] = ..., accelerator_ids: _Optional[_Iterable[str]] = ..., history_only: bool = ...) -> None: ...

class SampleBatch(_message.Message):
    __slots__ = ("samples",)
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    samples: _containers.RepeatedCompositeFieldContainer[Sample]
    def __init__(self, samples: _Optional[_Iterable[_Union[Sample, _Mapping]]] = ...) -> None: ...

class Sample(_message.Message):
    __slots__ = ("accelerator_id", "time_unix_s", "simulated", "utilisation_percent", "memory_used_bytes", "memory_total_bytes", "power_watts", "power_limit_watts", "temperature_celsius", "sm_clock_mhz", "memory_clock_mhz", "session_id", "pcie_tx_bytes_per_s", "pcie_rx_bytes_per_s", "nvlink_tx_bytes_per_s", "nvlink_rx_bytes_per_s", "throttle_reasons", "ecc_errors_corrected", "ecc_errors_uncorrected", "xid", "processes", "other_user")
    ACCELERATOR_ID_FIELD_NUMBER: _ClassVar[int]
    TIME_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    SIMULATED_FIELD_NUMBER: _ClassVar[int]
    UTILISATION_PERCENT_FIELD_NUMBER: _ClassVar[int]
    MEMORY_USED_BYTES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    POWER_WATTS_FIELD_NUMBER: _ClassVar[int]
    POWER_LIMIT_WATTS_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_CELSIUS_FIELD_NUMBER: _ClassVar[int]
    SM_CLOCK_MHZ_FIELD_NUMBER: _ClassVar[int]
    MEMORY_CLOCK_MHZ_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    PCIE_TX_BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    PCIE_RX_BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    NVLINK_TX_BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    NVLINK_RX_BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    THROTTLE_REASONS_FIELD_NUMBER: _ClassVar[int]
    ECC_ERRORS_CORRECTED_FIELD_NUMBER: _ClassVar[int]
    ECC_ERRORS_UNCORRECTED_FIELD_NUMBER: _ClassVar[int]
    XID_FIELD_NUMBER: _ClassVar[int]
    PROCESSES_FIELD_NUMBER: _ClassVar[int]
    OTHER_USER_FIELD_NUMBER: _ClassVar[int]
    accelerator_id: str
    time_unix_s: float
    simulated: bool
    utilisation_percent: float
    memory_used_bytes: int
    memory_total_bytes: int
    power_watts: float
    power_limit_watts: float
    temperature_celsius: float
    sm_clock_mhz: int
    memory_clock_mhz: int
    session_id: str
    pcie_tx_bytes_per_s: float
    pcie_rx_bytes_per_s: float
    nvlink_tx_bytes_per_s: float
    nvlink_rx_bytes_per_s: float
    throttle_reasons: _containers.RepeatedScalarFieldContainer[str]
    ecc_errors_corrected: int
    ecc_errors_uncorrected: int
    xid: Xid
    processes: _containers.RepeatedCompositeFieldContainer[AcceleratorProcess]
    other_user: bool
    def __init__(self, accelerator_id: _Optional[str] = ..., time_unix_s: _Optional[float] = ..., simulated: bool = ..., utilisation_percent: _Optional[float] = ..., memory_used_bytes: _Optional[int] = ..., memory_total_bytes: _Optional[int] = ..., power_watts: _Optional[float] = ..., power_limit_watts: _Optional[float] = ..., temperature_celsius: _Optional[float] = ..., sm_clock_mhz: _Optional[int] = ..., memory_clock_mhz: _Optional[int] = ..., session_id: _Optional[str] = ..., pcie_tx_bytes_per_s: _Optional[float] = ..., pcie_rx_bytes_per_s: _Optional[float] = ..., nvlink_tx_bytes_per_s: _Optional[float] = ..., nvlink_rx_bytes_per_s: _Optional[float] = ..., throttle_reasons: _Optional[_Iterable[str]] = ..., ecc_errors_corrected: _Optional[int] = ..., ecc_errors_uncorrected: _Optional[int] = ..., xid: _Optional[_Union[Xid, _Mapping]] = ..., processes: _Optional[_Iterable[_Union[AcceleratorProcess, _Mapping]]] = ..., other_user: bool = ...) -> None: ...

class Xid(_message.Message):
    __slots__ = ("code", "time_unix_s", "meaning")
    CODE_FIELD_NUMBER: _ClassVar[int]
    TIME_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    MEANING_FIELD_NUMBER: _ClassVar[int]
    code: int
    time_unix_s: float
    meaning: str
    def __init__(self, code: _Optional[int] = ..., time_unix_s: _Optional[float] = ..., meaning: _Optional[str] = ...) -> None: ...

class AcceleratorProcess(_message.Message):
    __slots__ = ("pid", "session_id", "memory_bytes", "name", "other_user")
    PID_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    OTHER_USER_FIELD_NUMBER: _ClassVar[int]
    pid: int
    session_id: str
    memory_bytes: int
    name: str
    other_user: bool
    def __init__(self, pid: _Optional[int] = ..., session_id: _Optional[str] = ..., memory_bytes: _Optional[int] = ..., name: _Optional[str] = ..., other_user: bool = ...) -> None: ...

class ShutdownRequest(_message.Message):
    __slots__ = ("close_sessions", "keep_sessions")
    CLOSE_SESSIONS_FIELD_NUMBER: _ClassVar[int]
    KEEP_SESSIONS_FIELD_NUMBER: _ClassVar[int]
    close_sessions: bool
    keep_sessions: bool
    def __init__(self, close_sessions: bool = ..., keep_sessions: bool = ...) -> None: ...

class ShutdownResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
