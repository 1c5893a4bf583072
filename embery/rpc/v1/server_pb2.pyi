from embery.rpc.v1 import routing_pb2 as _routing_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class NegotiateRequest(_message.Message):
    __slots__ = ("host_identity", "versions")
    HOST_IDENTITY_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    host_identity: str
    versions: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, host_identity: _Optional[str] = ..., versions: _Optional[_Iterable[int]] = ...) -> None: ...

class NegotiateReply(_message.Message):
    __slots__ = ("number", "version", "offers", "reasons", "secret")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    OFFERS_FIELD_NUMBER: _ClassVar[int]
    REASONS_FIELD_NUMBER: _ClassVar[int]
    SECRET_FIELD_NUMBER: _ClassVar[int]
    number: int
    version: int
    offers: _containers.RepeatedCompositeFieldContainer[Offer]
    reasons: _containers.RepeatedScalarFieldContainer[str]
    secret: bytes
    def __init__(self, number: _Optional[int] = ..., version: _Optional[int] = ..., offers: _Optional[_Iterable[_Union[Offer, _Mapping]]] = ..., reasons: _Optional[_Iterable[str]] = ..., secret: _Optional[bytes] = ...) -> None: ...

class Offer(_message.Message):
    __slots__ = ("tcp", "shm", "rdma")
    TCP_FIELD_NUMBER: _ClassVar[int]
    SHM_FIELD_NUMBER: _ClassVar[int]
    RDMA_FIELD_NUMBER: _ClassVar[int]
    tcp: TcpOffer
    shm: ShmOffer
    rdma: RdmaOffer
    def __init__(self, tcp: _Optional[_Union[TcpOffer, _Mapping]] = ..., shm: _Optional[_Union[ShmOffer, _Mapping]] = ..., rdma: _Optional[_Union[RdmaOffer, _Mapping]] = ...) -> None: ...

class TcpOffer(_message.Message):
    __slots__ = ("host", "port")
    HOST_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    host: str
    port: int
    def __init__(self, host: _Optional[str] = ..., port: _Optional[int] = ...) -> None: ...

class ShmOffer(_message.Message):
    __slots__ = ("socket",)
    SOCKET_FIELD_NUMBER: _ClassVar[int]
    socket: str
    def __init__(self, socket: _Optional[str] = ...) -> None: ...

class RdmaOffer(_message.Message):
    __slots__ = ("device",)
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    device: str
    def __init__(self, device: _Optional[str] = ...) -> None: ...

class RdmaEnd(_message.Message):
    __slots__ = ("address",)
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    address: bytes
    def __init__(self, address: _Optional[bytes] = ...) -> None: ...

class CreateServerTableRequest(_message.Message):
    __slots__ = ("definition_json",)
    DEFINITION_JSON_FIELD_NUMBER: _ClassVar[int]
    definition_json: str
    def __init__(self, definition_json: _Optional[str] = ...) -> None: ...

class CreateServerTableReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class SetRoutingRequest(_message.Message):
    __slots__ = ("routing",)
    ROUTING_FIELD_NUMBER: _ClassVar[int]
    routing: _routing_pb2.Routing
    def __init__(self, routing: _Optional[_Union[_routing_pb2.Routing, _Mapping]] = ...) -> None: ...

class SetRoutingReply(_message.Message):
    __slots__ = ("version",)
    VERSION_FIELD_NUMBER: _ClassVar[int]
    version: int
    def __init__(self, version: _Optional[int] = ...) -> None: ...

class TableStatsRequest(_message.Message):
    __slots__ = ("table",)
    TABLE_FIELD_NUMBER: _ClassVar[int]
    table: str
    def __init__(self, table: _Optional[str] = ...) -> None: ...

class TableStatsReply(_message.Message):
    __slots__ = ("counters",)
    class CountersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    COUNTERS_FIELD_NUMBER: _ClassVar[int]
    counters: _containers.ScalarMap[str, int]
    def __init__(self, counters: _Optional[_Mapping[str, int]] = ...) -> None: ...

class InspectRequest(_message.Message):
    __slots__ = ("table", "key")
    TABLE_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    table: str
    key: int
    def __init__(self, table: _Optional[str] = ..., key: _Optional[int] = ...) -> None: ...

class InspectReply(_message.Message):
    __slots__ = ("row_json",)
    ROW_JSON_FIELD_NUMBER: _ClassVar[int]
    row_json: str
    def __init__(self, row_json: _Optional[str] = ...) -> None: ...

class EvictRequest(_message.Message):
    __slots__ = ("table", "now_s", "request_id")
    TABLE_FIELD_NUMBER: _ClassVar[int]
    NOW_S_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    table: str
    now_s: int
    request_id: str
    def __init__(self, table: _Optional[str] = ..., now_s: _Optional[int] = ..., request_id: _Optional[str] = ...) -> None: ...

class EvictReply(_message.Message):
    __slots__ = ("rows",)
    ROWS_FIELD_NUMBER: _ClassVar[int]
    rows: int
    def __init__(self, rows: _Optional[int] = ...) -> None: ...

class DeletionsRequest(_message.Message):
    __slots__ = ("table",)
    TABLE_FIELD_NUMBER: _ClassVar[int]
    table: str
    def __init__(self, table: _Optional[str] = ...) -> None: ...

class DeletionsReply(_message.Message):
    __slots__ = ("rows",)
    ROWS_FIELD_NUMBER: _ClassVar[int]
    rows: int
    def __init__(self, rows: _Optional[int] = ...) -> None: ...

class FreezeRequest(_message.Message):
    __slots__ = ("seconds",)
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    seconds: float
    def __init__(self, seconds: _Optional[float] = ...) -> None: ...

class FreezeReply(_message.Message):
    __slots__ = ("routing_version",)
    ROUTING_VERSION_FIELD_NUMBER: _ClassVar[int]
    routing_version: int
    def __init__(self, routing_version: _Optional[int] = ...) -> None: ...

class HoldRequest(_message.Message):
    __slots__ = ("seconds",)
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    seconds: float
    def __init__(self, seconds: _Optional[float] = ...) -> None: ...

class HoldReply(_message.Message):
    __slots__ = ("routing_version", "hold", "seal")
    ROUTING_VERSION_FIELD_NUMBER: _ClassVar[int]
    HOLD_FIELD_NUMBER: _ClassVar[int]
    SEAL_FIELD_NUMBER: _ClassVar[int]
    routing_version: int
    hold: str
    seal: str
    def __init__(self, routing_version: _Optional[int] = ..., hold: _Optional[str] = ..., seal: _Optional[str] = ...) -> None: ...

class BeginCutRequest(_message.Message):
    __slots__ = ("hold",)
    HOLD_FIELD_NUMBER: _ClassVar[int]
    hold: str
    def __init__(self, hold: _Optional[str] = ...) -> None: ...

class BeginCutReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ExportRequest(_message.Message):
    __slots__ = ("table", "slot_begin", "slot_end", "since")
    TABLE_FIELD_NUMBER: _ClassVar[int]
    SLOT_BEGIN_FIELD_NUMBER: _ClassVar[int]
    SLOT_END_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    table: str
    slot_begin: int
    slot_end: int
    since: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, table: _Optional[str] = ..., slot_begin: _Optional[int] = ..., slot_end: _Optional[int] = ..., since: _Optional[_Iterable[int]] = ...) -> None: ...

class NoteSavedRequest(_message.Message):
    __slots__ = ("seal",)
    SEAL_FIELD_NUMBER: _ClassVar[int]
    seal: str
    def __init__(self, seal: _Optional[str] = ...) -> None: ...

class NoteSavedReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class CopySlotsRequest(_message.Message):
    __slots__ = ("slot_begin", "slot_end", "target", "target_number", "routing_version", "hand_over")
    SLOT_BEGIN_FIELD_NUMBER: _ClassVar[int]
    SLOT_END_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    TARGET_NUMBER_FIELD_NUMBER: _ClassVar[int]
    ROUTING_VERSION_FIELD_NUMBER: _ClassVar[int]
    HAND_OVER_FIELD_NUMBER: _ClassVar[int]
    slot_begin: int
    slot_end: int
    target: str
    target_number: int
    routing_version: int
    hand_over: bool
    def __init__(self, slot_begin: _Optional[int] = ..., slot_end: _Optional[int] = ..., target: _Optional[str] = ..., target_number: _Optional[int] = ..., routing_version: _Optional[int] = ..., hand_over: bool = ...) -> None: ...

class CopySlotsReply(_message.Message):
    __slots__ = ("rows", "bytes", "frozen_seconds")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    FROZEN_SECONDS_FIELD_NUMBER: _ClassVar[int]
    rows: int
    bytes: int
    frozen_seconds: float
    def __init__(self, rows: _Optional[int] = ..., bytes: _Optional[int] = ..., frozen_seconds: _Optional[float] = ...) -> None: ...

class CheckCopyReply(_message.Message):
    __slots__ = ("rows", "checksum")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    rows: int
    checksum: int
    def __init__(self, rows: _Optional[int] = ..., checksum: _Optional[int] = ...) -> None: ...

class TableName(_message.Message):
    __slots__ = ("table",)
    TABLE_FIELD_NUMBER: _ClassVar[int]
    table: str
    def __init__(self, table: _Optional[str] = ...) -> None: ...

class SlotRange(_message.Message):
    __slots__ = ("table", "slot_begin", "slot_end", "rows")
    TABLE_FIELD_NUMBER: _ClassVar[int]
    SLOT_BEGIN_FIELD_NUMBER: _ClassVar[int]
    SLOT_END_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    table: str
    slot_begin: int
    slot_end: int
    rows: int
    def __init__(self, table: _Optional[str] = ..., slot_begin: _Optional[int] = ..., slot_end: _Optional[int] = ..., rows: _Optional[int] = ...) -> None: ...

class ImportReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Chunk(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...
