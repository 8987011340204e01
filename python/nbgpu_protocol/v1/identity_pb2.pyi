from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class PairRequest(_message.Message):
    __slots__ = ("code", "client_name")
    CODE_FIELD_NUMBER: _ClassVar[int]
    CLIENT_NAME_FIELD_NUMBER: _ClassVar[int]
    code: str
    client_name: str
    def __init__(self, code: _Optional[str] = ..., client_name: _Optional[str] = ...) -> None: ...

class PairResponse(_message.Message):
    __slots__ = ("token", "user", "administrator", "expires_unix_s")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    USER_FIELD_NUMBER: _ClassVar[int]
    ADMINISTRATOR_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    token: str
    user: str
    administrator: bool
    expires_unix_s: float
    def __init__(self, token: _Optional[str] = ..., user: _Optional[str] = ..., administrator: bool = ..., expires_unix_s: _Optional[float] = ...) -> None: ...
