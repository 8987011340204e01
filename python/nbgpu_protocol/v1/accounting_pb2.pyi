from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class UsageRequest(_message.Message):
    __slots__ = ("session_id", "notebook_id")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    NOTEBOOK_ID_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    notebook_id: str
    def __init__(self, session_id: _Optional[str] = ..., notebook_id: _Optional[str] = ...) -> None: ...

class Usage(_message.Message):
    __slots__ = ("accelerator_seconds", "busy_accelerator_seconds", "cost")
    ACCELERATOR_SECONDS_FIELD_NUMBER: _ClassVar[int]
    BUSY_ACCELERATOR_SECONDS_FIELD_NUMBER: _ClassVar[int]
    COST_FIELD_NUMBER: _ClassVar[int]
    accelerator_seconds: float
    busy_accelerator_seconds: float
    cost: float
    def __init__(self, accelerator_seconds: _Optional[float] = ..., busy_accelerator_seconds: _Optional[float] = ..., cost: _Optional[float] = ...) -> None: ...

class CellUsage(_message.Message):
    __slots__ = ("session_id", "notebook_name", "execution_count", "accelerators", "began_unix_s", "ended_unix_s", "usage", "succeeded")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    NOTEBOOK_NAME_FIELD_NUMBER: _ClassVar[int]
    EXECUTION_COUNT_FIELD_NUMBER: _ClassVar[int]
    ACCELERATORS_FIELD_NUMBER: _ClassVar[int]
    BEGAN_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    ENDED_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    SUCCEEDED_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    notebook_name: str
    execution_count: int
    accelerators: str
    began_unix_s: float
    ended_unix_s: float
    usage: Usage
    succeeded: bool
    def __init__(self, session_id: _Optional[str] = ..., notebook_name: _Optional[str] = ..., execution_count: _Optional[int] = ..., accelerators: _Optional[str] = ..., began_unix_s: _Optional[float] = ..., ended_unix_s: _Optional[float] = ..., usage: _Optional[_Union[Usage, _Mapping]] = ..., succeeded: bool = ...) -> None: ...

class Allowance(_message.Message):
    __slots__ = ("of", "amount", "spent", "unit", "per_hour")
    OF_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_FIELD_NUMBER: _ClassVar[int]
    SPENT_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    PER_HOUR_FIELD_NUMBER: _ClassVar[int]
    of: str
    amount: float
    spent: float
    unit: str
    per_hour: float
    def __init__(self, of: _Optional[str] = ..., amount: _Optional[float] = ..., spent: _Optional[float] = ..., unit: _Optional[str] = ..., per_hour: _Optional[float] = ...) -> None: ...

class UsageReport(_message.Message):
    __slots__ = ("session", "notebook", "today", "month", "top_cells", "allowances", "currency", "users")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    NOTEBOOK_FIELD_NUMBER: _ClassVar[int]
    TODAY_FIELD_NUMBER: _ClassVar[int]
    MONTH_FIELD_NUMBER: _ClassVar[int]
    TOP_CELLS_FIELD_NUMBER: _ClassVar[int]
    ALLOWANCES_FIELD_NUMBER: _ClassVar[int]
    CURRENCY_FIELD_NUMBER: _ClassVar[int]
    USERS_FIELD_NUMBER: _ClassVar[int]
    session: Usage
    notebook: Usage
    today: Usage
    month: Usage
    top_cells: _containers.RepeatedCompositeFieldContainer[CellUsage]
    allowances: _containers.RepeatedCompositeFieldContainer[Allowance]
    currency: str
    users: _containers.RepeatedCompositeFieldContainer[UserUsage]
    def __init__(self, session: _Optional[_Union[Usage, _Mapping]] = ..., notebook: _Optional[_Union[Usage, _Mapping]] = ..., today: _Optional[_Union[Usage, _Mapping]] = ..., month: _Optional[_Union[Usage, _Mapping]] = ..., top_cells: _Optional[_Iterable[_Union[CellUsage, _Mapping]]] = ..., allowances: _Optional[_Iterable[_Union[Allowance, _Mapping]]] = ..., currency: _Optional[str] = ..., users: _Optional[_Iterable[_Union[UserUsage, _Mapping]]] = ...) -> None: ...

class UserUsage(_message.Message):
    __slots__ = ("user", "usage")
    USER_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    user: str
    usage: Usage
    def __init__(self, user: _Optional[str] = ..., usage: _Optional[_Union[Usage, _Mapping]] = ...) -> None: ...

class SetBudgetRequest(_message.Message):
    __slots__ = ("notebook_id", "amount")
    NOTEBOOK_ID_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_FIELD_NUMBER: _ClassVar[int]
    notebook_id: str
    amount: float
    def __init__(self, notebook_id: _Optional[str] = ..., amount: _Optional[float] = ...) -> None: ...

class SetBudgetResponse(_message.Message):
    __slots__ = ("allowances",)
    ALLOWANCES_FIELD_NUMBER: _ClassVar[int]
    allowances: _containers.RepeatedCompositeFieldContainer[Allowance]
    def __init__(self, allowances: _Optional[_Iterable[_Union[Allowance, _Mapping]]] = ...) -> None: ...
