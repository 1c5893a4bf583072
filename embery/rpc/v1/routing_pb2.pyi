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
    SERVER_STATE_JOINING: _ClassVar[ServerState]
    SERVER_STATE_LIVE: _ClassVar[ServerState]
    SERVER_STATE_LOST: _ClassVar[ServerState]
    SERVER_STATE_LEFT: _ClassVar[ServerState]
SERVER_STATE_UNSPECIFIED: ServerState
SERVER_STATE_JOINING: ServerState
SERVER_STATE_LIVE: ServerState
SERVER_STATE_LOST: ServerState
SERVER_STATE_LEFT: ServerState

class ServerInfo(_message.Message):
    __slots__ = ("number", "address", "host_identity", "state", "draining")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    HOST_IDENTITY_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    number: int
    address: str
    host_identity: str
    state: ServerState
    draining: bool
    def __init__(self, number: _Optional[int] = ..., address: _Optional[str] = ..., host_identity: _Optional[str] = ..., state: _Optional[_Union[ServerState, str]] = ..., draining: bool = ...) -> None: ...

class Routing(_message.Message):
    __slots__ = ("version", "owners", "changed_at", "servers", "backups")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    OWNERS_FIELD_NUMBER: _ClassVar[int]
    CHANGED_AT_FIELD_NUMBER: _ClassVar[int]
    SERVERS_FIELD_NUMBER: _ClassVar[int]
    BACKUPS_FIELD_NUMBER: _ClassVar[int]
    version: int
    owners: _containers.RepeatedScalarFieldContainer[int]
    changed_at: _containers.RepeatedScalarFieldContainer[int]
    servers: _containers.RepeatedCompositeFieldContainer[ServerInfo]
    backups: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, version: _Optional[int] = ..., owners: _Optional[_Iterable[int]] = ..., changed_at: _Optional[_Iterable[int]] = ..., servers: _Optional[_Iterable[_Union[ServerInfo, _Mapping]]] = ..., backups: _Optional[_Iterable[int]] = ...) -> None: ...
