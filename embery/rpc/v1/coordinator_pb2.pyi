from embery.rpc.v1 import routing_pb2 as _routing_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GroupCall(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    GROUP_CALL_NONE: _ClassVar[GroupCall]
    GROUP_CALL_SOON: _ClassVar[GroupCall]
    GROUP_CALL_NOW: _ClassVar[GroupCall]
    GROUP_CALL_FENCED: _ClassVar[GroupCall]

class LeaseOutcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LEASE_OUTCOME_HELD: _ClassVar[LeaseOutcome]
    LEASE_OUTCOME_FINISHED: _ClassVar[LeaseOutcome]
    LEASE_OUTCOME_RETURNED: _ClassVar[LeaseOutcome]
    LEASE_OUTCOME_FAILED: _ClassVar[LeaseOutcome]
GROUP_CALL_NONE: GroupCall
GROUP_CALL_SOON: GroupCall
GROUP_CALL_NOW: GroupCall
GROUP_CALL_FENCED: GroupCall
LEASE_OUTCOME_HELD: LeaseOutcome
LEASE_OUTCOME_FINISHED: LeaseOutcome
LEASE_OUTCOME_RETURNED: LeaseOutcome
LEASE_OUTCOME_FAILED: LeaseOutcome

class RegisterServerRequest(_message.Message):
    __slots__ = ("incarnation", "address", "host_identity", "cluster_id")
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    HOST_IDENTITY_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    incarnation: str
    address: str
    host_identity: str
    cluster_id: str
    def __init__(self, incarnation: _Optional[str] = ..., address: _Optional[str] = ..., host_identity: _Optional[str] = ..., cluster_id: _Optional[str] = ...) -> None: ...

class RegisterServerReply(_message.Message):
    __slots__ = ("number", "cluster_id", "secret", "routing", "tables", "heartbeat_ms")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    SECRET_FIELD_NUMBER: _ClassVar[int]
    ROUTING_FIELD_NUMBER: _ClassVar[int]
    TABLES_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_MS_FIELD_NUMBER: _ClassVar[int]
    number: int
    cluster_id: str
    secret: bytes
    routing: _routing_pb2.Routing
    tables: _containers.RepeatedScalarFieldContainer[str]
    heartbeat_ms: int
    def __init__(self, number: _Optional[int] = ..., cluster_id: _Optional[str] = ..., secret: _Optional[bytes] = ..., routing: _Optional[_Union[_routing_pb2.Routing, _Mapping]] = ..., tables: _Optional[_Iterable[str]] = ..., heartbeat_ms: _Optional[int] = ...) -> None: ...

class RegisterWorkerRequest(_message.Message):
    __slots__ = ("incarnation", "rank", "world_size", "host_identity")
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    WORLD_SIZE_FIELD_NUMBER: _ClassVar[int]
    HOST_IDENTITY_FIELD_NUMBER: _ClassVar[int]
    incarnation: str
    rank: int
    world_size: int
    host_identity: str
    def __init__(self, incarnation: _Optional[str] = ..., rank: _Optional[int] = ..., world_size: _Optional[int] = ..., host_identity: _Optional[str] = ...) -> None: ...

class RegisterWorkerReply(_message.Message):
    __slots__ = ("client", "cluster_id", "secret", "heartbeat_ms")
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    SECRET_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_MS_FIELD_NUMBER: _ClassVar[int]
    client: int
    cluster_id: str
    secret: bytes
    heartbeat_ms: int
    def __init__(self, client: _Optional[int] = ..., cluster_id: _Optional[str] = ..., secret: _Optional[bytes] = ..., heartbeat_ms: _Optional[int] = ...) -> None: ...

class Progress(_message.Message):
    __slots__ = ("revision", "batches", "samples", "staleness", "clock", "group")
    REVISION_FIELD_NUMBER: _ClassVar[int]
    BATCHES_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    STALENESS_FIELD_NUMBER: _ClassVar[int]
    CLOCK_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    revision: int
    batches: int
    samples: int
    staleness: int
    clock: int
    group: str
    def __init__(self, revision: _Optional[int] = ..., batches: _Optional[int] = ..., samples: _Optional[int] = ..., staleness: _Optional[int] = ..., clock: _Optional[int] = ..., group: _Optional[str] = ...) -> None: ...

class HeartbeatRequest(_message.Message):
    __slots__ = ("incarnation", "progress")
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    incarnation: str
    progress: Progress
    def __init__(self, incarnation: _Optional[str] = ..., progress: _Optional[_Union[Progress, _Mapping]] = ...) -> None: ...

class HeartbeatReply(_message.Message):
    __slots__ = ("known", "routing_version", "table_count", "drained", "slowest", "leases_from", "group_call")
    KNOWN_FIELD_NUMBER: _ClassVar[int]
    ROUTING_VERSION_FIELD_NUMBER: _ClassVar[int]
    TABLE_COUNT_FIELD_NUMBER: _ClassVar[int]
    DRAINED_FIELD_NUMBER: _ClassVar[int]
    SLOWEST_FIELD_NUMBER: _ClassVar[int]
    LEASES_FROM_FIELD_NUMBER: _ClassVar[int]
    GROUP_CALL_FIELD_NUMBER: _ClassVar[int]
    known: bool
    routing_version: int
    table_count: int
    drained: bool
    slowest: int
    leases_from: int
    group_call: GroupCall
    def __init__(self, known: bool = ..., routing_version: _Optional[int] = ..., table_count: _Optional[int] = ..., drained: bool = ..., slowest: _Optional[int] = ..., leases_from: _Optional[int] = ..., group_call: _Optional[_Union[GroupCall, str]] = ...) -> None: ...

class AskForGroupRequest(_message.Message):
    __slots__ = ("incarnation", "epoch", "step", "address", "starting", "wait_ms")
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    STARTING_FIELD_NUMBER: _ClassVar[int]
    WAIT_MS_FIELD_NUMBER: _ClassVar[int]
    incarnation: str
    epoch: int
    step: int
    address: str
    starting: bool
    wait_ms: int
    def __init__(self, incarnation: _Optional[str] = ..., epoch: _Optional[int] = ..., step: _Optional[int] = ..., address: _Optional[str] = ..., starting: bool = ..., wait_ms: _Optional[int] = ...) -> None: ...

class AskForGroupReply(_message.Message):
    __slots__ = ("dismissed", "epoch", "rank", "world_size", "address", "source", "lease", "shares")
    DISMISSED_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    WORLD_SIZE_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    SHARES_FIELD_NUMBER: _ClassVar[int]
    dismissed: bool
    epoch: int
    rank: int
    world_size: int
    address: str
    source: int
    lease: int
    shares: int
    def __init__(self, dismissed: bool = ..., epoch: _Optional[int] = ..., rank: _Optional[int] = ..., world_size: _Optional[int] = ..., address: _Optional[str] = ..., source: _Optional[int] = ..., lease: _Optional[int] = ..., shares: _Optional[int] = ...) -> None: ...

class WaitClockRequest(_message.Message):
    __slots__ = ("incarnation", "progress", "at_least", "wait_ms")
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    AT_LEAST_FIELD_NUMBER: _ClassVar[int]
    WAIT_MS_FIELD_NUMBER: _ClassVar[int]
    incarnation: str
    progress: Progress
    at_least: int
    wait_ms: int
    def __init__(self, incarnation: _Optional[str] = ..., progress: _Optional[_Union[Progress, _Mapping]] = ..., at_least: _Optional[int] = ..., wait_ms: _Optional[int] = ...) -> None: ...

class WaitClockReply(_message.Message):
    __slots__ = ("slowest",)
    SLOWEST_FIELD_NUMBER: _ClassVar[int]
    slowest: int
    def __init__(self, slowest: _Optional[int] = ...) -> None: ...

class LeaveRequest(_message.Message):
    __slots__ = ("incarnation",)
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    incarnation: str
    def __init__(self, incarnation: _Optional[str] = ...) -> None: ...

class LeaveReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WaitRoutingRequest(_message.Message):
    __slots__ = ("after_version", "wait_ms")
    AFTER_VERSION_FIELD_NUMBER: _ClassVar[int]
    WAIT_MS_FIELD_NUMBER: _ClassVar[int]
    after_version: int
    wait_ms: int
    def __init__(self, after_version: _Optional[int] = ..., wait_ms: _Optional[int] = ...) -> None: ...

class CreateTableRequest(_message.Message):
    __slots__ = ("definition_json", "wait_ms")
    DEFINITION_JSON_FIELD_NUMBER: _ClassVar[int]
    WAIT_MS_FIELD_NUMBER: _ClassVar[int]
    definition_json: str
    wait_ms: int
    def __init__(self, definition_json: _Optional[str] = ..., wait_ms: _Optional[int] = ...) -> None: ...

class CreateTableReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListTablesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListTablesReply(_message.Message):
    __slots__ = ("tables",)
    TABLES_FIELD_NUMBER: _ClassVar[int]
    tables: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, tables: _Optional[_Iterable[str]] = ...) -> None: ...

class BegunPiece(_message.Message):
    __slots__ = ("piece", "done", "finished", "lease", "token")
    PIECE_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    piece: int
    done: int
    finished: bool
    lease: int
    token: int
    def __init__(self, piece: _Optional[int] = ..., done: _Optional[int] = ..., finished: bool = ..., lease: _Optional[int] = ..., token: _Optional[int] = ...) -> None: ...

class OpenReadingRequest(_message.Message):
    __slots__ = ("reading", "plan", "pieces", "begun")
    READING_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    PIECES_FIELD_NUMBER: _ClassVar[int]
    BEGUN_FIELD_NUMBER: _ClassVar[int]
    reading: str
    plan: str
    pieces: int
    begun: _containers.RepeatedCompositeFieldContainer[BegunPiece]
    def __init__(self, reading: _Optional[str] = ..., plan: _Optional[str] = ..., pieces: _Optional[int] = ..., begun: _Optional[_Iterable[_Union[BegunPiece, _Mapping]]] = ...) -> None: ...

class OpenReadingReply(_message.Message):
    __slots__ = ("begun",)
    BEGUN_FIELD_NUMBER: _ClassVar[int]
    begun: _containers.RepeatedCompositeFieldContainer[BegunPiece]
    def __init__(self, begun: _Optional[_Iterable[_Union[BegunPiece, _Mapping]]] = ...) -> None: ...

class LeaseReport(_message.Message):
    __slots__ = ("piece", "token", "done", "outcome", "error")
    PIECE_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    piece: int
    token: int
    done: int
    outcome: LeaseOutcome
    error: str
    def __init__(self, piece: _Optional[int] = ..., token: _Optional[int] = ..., done: _Optional[int] = ..., outcome: _Optional[_Union[LeaseOutcome, str]] = ..., error: _Optional[str] = ...) -> None: ...

class HoldLeasesRequest(_message.Message):
    __slots__ = ("incarnation", "reading", "reports", "want", "wait_ms", "stop")
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    READING_FIELD_NUMBER: _ClassVar[int]
    REPORTS_FIELD_NUMBER: _ClassVar[int]
    WANT_FIELD_NUMBER: _ClassVar[int]
    WAIT_MS_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    incarnation: str
    reading: str
    reports: _containers.RepeatedCompositeFieldContainer[LeaseReport]
    want: int
    wait_ms: int
    stop: bool
    def __init__(self, incarnation: _Optional[str] = ..., reading: _Optional[str] = ..., reports: _Optional[_Iterable[_Union[LeaseReport, _Mapping]]] = ..., want: _Optional[int] = ..., wait_ms: _Optional[int] = ..., stop: bool = ...) -> None: ...

class Lease(_message.Message):
    __slots__ = ("piece", "token", "done", "number")
    PIECE_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    piece: int
    token: int
    done: int
    number: int
    def __init__(self, piece: _Optional[int] = ..., token: _Optional[int] = ..., done: _Optional[int] = ..., number: _Optional[int] = ...) -> None: ...

class HoldLeasesReply(_message.Message):
    __slots__ = ("leases", "state", "error")
    LEASES_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    leases: _containers.RepeatedCompositeFieldContainer[Lease]
    state: str
    error: str
    def __init__(self, leases: _Optional[_Iterable[_Union[Lease, _Mapping]]] = ..., state: _Optional[str] = ..., error: _Optional[str] = ...) -> None: ...

class DrainRequest(_message.Message):
    __slots__ = ("server", "incarnation")
    SERVER_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    server: int
    incarnation: str
    def __init__(self, server: _Optional[int] = ..., incarnation: _Optional[str] = ...) -> None: ...

class DrainReply(_message.Message):
    __slots__ = ("slots",)
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    slots: int
    def __init__(self, slots: _Optional[int] = ...) -> None: ...

class ScaleRequest(_message.Message):
    __slots__ = ("servers", "workers")
    SERVERS_FIELD_NUMBER: _ClassVar[int]
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    servers: int
    workers: int
    def __init__(self, servers: _Optional[int] = ..., workers: _Optional[int] = ...) -> None: ...

class ScaleReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class BeginPauseRequest(_message.Message):
    __slots__ = ("wait_ms",)
    WAIT_MS_FIELD_NUMBER: _ClassVar[int]
    wait_ms: int
    def __init__(self, wait_ms: _Optional[int] = ...) -> None: ...

class BeginPauseReply(_message.Message):
    __slots__ = ("pause",)
    PAUSE_FIELD_NUMBER: _ClassVar[int]
    pause: int
    def __init__(self, pause: _Optional[int] = ...) -> None: ...

class EndPauseRequest(_message.Message):
    __slots__ = ("pause",)
    PAUSE_FIELD_NUMBER: _ClassVar[int]
    pause: int
    def __init__(self, pause: _Optional[int] = ...) -> None: ...

class EndPauseReply(_message.Message):
    __slots__ = ("held",)
    HELD_FIELD_NUMBER: _ClassVar[int]
    held: bool
    def __init__(self, held: bool = ...) -> None: ...

class WaitPauseRequest(_message.Message):
    __slots__ = ("incarnation", "pause", "wait_ms")
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    PAUSE_FIELD_NUMBER: _ClassVar[int]
    WAIT_MS_FIELD_NUMBER: _ClassVar[int]
    incarnation: str
    pause: int
    wait_ms: int
    def __init__(self, incarnation: _Optional[str] = ..., pause: _Optional[int] = ..., wait_ms: _Optional[int] = ...) -> None: ...

class WaitPauseReply(_message.Message):
    __slots__ = ("pause",)
    PAUSE_FIELD_NUMBER: _ClassVar[int]
    pause: int
    def __init__(self, pause: _Optional[int] = ...) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ReadingInfo(_message.Message):
    __slots__ = ("reading", "state", "pieces", "finished", "held")
    READING_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PIECES_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    reading: str
    state: str
    pieces: int
    finished: int
    held: int
    def __init__(self, reading: _Optional[str] = ..., state: _Optional[str] = ..., pieces: _Optional[int] = ..., finished: _Optional[int] = ..., held: _Optional[int] = ...) -> None: ...

class WorkerInfo(_message.Message):
    __slots__ = ("client", "rank", "world_size", "state", "progress", "samples_per_s")
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    WORLD_SIZE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_PER_S_FIELD_NUMBER: _ClassVar[int]
    client: int
    rank: int
    world_size: int
    state: str
    progress: Progress
    samples_per_s: float
    def __init__(self, client: _Optional[int] = ..., rank: _Optional[int] = ..., world_size: _Optional[int] = ..., state: _Optional[str] = ..., progress: _Optional[_Union[Progress, _Mapping]] = ..., samples_per_s: _Optional[float] = ...) -> None: ...

class StatusReply(_message.Message):
    __slots__ = ("cluster_id", "expected_servers", "reason", "routing", "tables", "workers", "readings", "wanted_servers", "wanted_workers", "group")
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_SERVERS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ROUTING_FIELD_NUMBER: _ClassVar[int]
    TABLES_FIELD_NUMBER: _ClassVar[int]
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    READINGS_FIELD_NUMBER: _ClassVar[int]
    WANTED_SERVERS_FIELD_NUMBER: _ClassVar[int]
    WANTED_WORKERS_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    cluster_id: str
    expected_servers: int
    reason: str
    routing: _routing_pb2.Routing
    tables: _containers.RepeatedScalarFieldContainer[str]
    workers: _containers.RepeatedCompositeFieldContainer[WorkerInfo]
    readings: _containers.RepeatedCompositeFieldContainer[ReadingInfo]
    wanted_servers: int
    wanted_workers: int
    group: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, cluster_id: _Optional[str] = ..., expected_servers: _Optional[int] = ..., reason: _Optional[str] = ..., routing: _Optional[_Union[_routing_pb2.Routing, _Mapping]] = ..., tables: _Optional[_Iterable[str]] = ..., workers: _Optional[_Iterable[_Union[WorkerInfo, _Mapping]]] = ..., readings: _Optional[_Iterable[_Union[ReadingInfo, _Mapping]]] = ..., wanted_servers: _Optional[int] = ..., wanted_workers: _Optional[int] = ..., group: _Optional[_Iterable[int]] = ...) -> None: ...
