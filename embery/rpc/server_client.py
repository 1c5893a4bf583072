"""The client of a server, as the store, the coordinator and other servers use it.

It is thread-safe, connects when first used, and raises the same errors as the coordinator's.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

from numpy.typing import NDArray

from embery.checkpoint.format import Tree
from embery.checkpoint.tables import Lsns
from embery.errors import Unavailable
from embery.rpc import trees
from embery.rpc.address import host_identity
from embery.rpc.channel import CHUNK_BYTES, TIMEOUT_S, WAIT_GRACE_S, Channel
from embery.rpc.credentials import Credentials
from embery.rpc.records import Routing, ServerInfo
from embery.rpc.v1 import server_pb2 as s
from embery.rpc.v1.server_pb2_grpc import ServerStub

CALL_TIMEOUT_S = 60.0
DATA_VERSIONS = (2,)


@dataclass(frozen=True, slots=True)
class Terms:
    """How rows can travel to a server, beside in-band gRPC.

    `version` is that of the frames; `offers` come best first, `secret` opens a connection of any;
    `reasons` say why other transports are not among them.
    """

    number: int
    version: int
    offers: tuple[s.Offer, ...]
    reasons: tuple[str, ...]
    secret: bytes


class ServerClient:
    """Calls a server.

    Args:
        address: "HOST:PORT" of its gRPC service, as the routing has it.
        credentials: None takes those that the environment names.
        timeout_s: deadline of a call that names none of its own.
    """

    def __init__(
        self, address: str, credentials: Credentials | None = None, timeout_s: float = TIMEOUT_S
    ) -> None:
        self.address = address
        self._timeout_s = timeout_s
        credentials = credentials or Credentials.from_environment()
        self._channel = Channel(address, credentials, role="server")
        self._stub = ServerStub(self._channel.grpc)  # type: ignore[no-untyped-call]

    def negotiate(self, *, versions: Sequence[int] = DATA_VERSIONS) -> Terms:
        """Ask how rows can travel.

        Raises:
            InvalidArgument: no version in common.
        """
        request = s.NegotiateRequest(host_identity=host_identity(), versions=versions)
        reply = self._channel.call(self._stub.Negotiate, request, self._timeout_s, what="negotiate")
        return Terms(
            number=reply.number,
            version=reply.version,
            offers=tuple(reply.offers),
            reasons=tuple(reply.reasons),
            secret=reply.secret,
        )

    def copy_slots(
        self,
        begin: int,
        end: int,
        target: ServerInfo,
        version: int,
        *,
        hand_over: bool,
        timeout_s: float,
    ) -> s.CopySlotsReply:
        """Let another server follow slots, and freeze them if they are to be its own.

        Only the coordinator calls this.
        """
        request = s.CopySlotsRequest(
            slot_begin=begin,
            slot_end=end,
            target=target.address,
            target_number=target.number,
            routing_version=version,
            hand_over=hand_over,
        )
        return cast(
            "s.CopySlotsReply",
            self._channel.call(self._stub.CopySlots, request, timeout_s, what="copy slots"),
        )

    def check_copy(self, table: str, begin: int, end: int) -> tuple[int, int]:
        """Return the number of rows in copies of slots, and a checksum. Only servers call this."""
        request = s.SlotRange(table=table, slot_begin=begin, slot_end=end)
        reply = self._channel.call(
            self._stub.CheckCopy, request, self._timeout_s, what=f"check copy of {table!r}"
        )
        return int(reply.rows), int(reply.checksum)

    def create_table(self, definition_json: str, *, timeout_s: float | None = None) -> None:
        """Create a table; a no-op if an equal one exists. Only the coordinator calls this."""
        self._channel.call(
            self._stub.CreateTable,
            s.CreateServerTableRequest(definition_json=definition_json),
            self._timeout_s if timeout_s is None else timeout_s,
            what="create table",
        )

    def set_routing(self, routing: Routing, *, timeout_s: float | None = None) -> int:
        """Set the routing and return the version now in force. Only the coordinator calls this."""
        reply = self._channel.call(
            self._stub.SetRouting,
            s.SetRoutingRequest(routing=routing.to_message()),
            self._timeout_s if timeout_s is None else timeout_s,
            what="set routing",
        )
        return int(reply.version)

    def table_stats(self, table: str) -> dict[str, int]:
        """Return the counters of a table here; "" returns those of the server's data plane."""
        reply = self._channel.call(
            self._stub.TableStats,
            s.TableStatsRequest(table=table),
            self._timeout_s,
            what=f"statistics of {table!r}",
        )
        return dict(reply.counters)

    def inspect(self, table: str, key: int) -> dict[str, Any] | None:
        """Return the row as `Store.inspect` does; None if it does not exist here."""
        reply = self._channel.call(
            self._stub.Inspect,
            s.InspectRequest(table=table, key=key),
            self._timeout_s,
            what=f"inspect {table!r}",
        )
        row: dict[str, Any] | None = json.loads(reply.row_json) if reply.row_json else None
        return row

    def evict(
        self, table: str, *, now_s: int | None = None, timeout_s: float = CALL_TIMEOUT_S
    ) -> int:
        """Apply the table's eviction policy at `now_s` (None: now); return how many rows went."""
        now_s = int(time.time()) if now_s is None else now_s
        request = s.EvictRequest(table=table, now_s=now_s, request_id=uuid.uuid4().hex)
        reply = self._channel.call(self._stub.Evict, request, timeout_s, what=f"evict {table!r}")
        return int(reply.rows)

    def deletions(self, table: str) -> int:
        """Return how many rows of a table were ever deleted here."""
        reply = self._channel.call(
            self._stub.Deletions,
            s.DeletionsRequest(table=table),
            self._timeout_s,
            what=f"deletions of {table!r}",
        )
        return int(reply.rows)

    def call(self, frame: bytes, timeout_s: float = CALL_TIMEOUT_S) -> bytes:
        """Send a frame of the data plane and return the reply's."""
        with self._channel.errors("data call"):
            replies = self._stub.Call(
                chunks(frame), timeout=timeout_s, metadata=self._channel.metadata
            )
            reply = b"".join(chunk.data for chunk in replies)
        if not reply:
            raise Unavailable(f"data call: server at {self.address} sent an empty reply")
        return reply

    def connect_rdma(self, address: bytes) -> bytes:
        """Give the address of this end of an RDMA connection for that of the server's."""
        request = s.RdmaEnd(address=address)
        reply = self._channel.call(
            self._stub.ConnectRdma, request, self._timeout_s, what="connect rdma"
        )
        return bytes(reply.address)

    @contextmanager
    def frozen(self, seconds: float) -> Iterator[s.FreezeReply]:
        """Hold back all changes of rows here, for at most so long; slots stay where they are.

        Raises:
            Unavailable: the time was over, or the server gone, before the context ended.
        """
        request = s.FreezeRequest(seconds=seconds)
        with self._lasting("freeze", self._stub.Freeze, request, seconds) as reply:
            yield reply

    @contextmanager
    def held(self, seconds: float) -> Iterator[s.HoldReply]:
        """Keep slots where they are, and a cut that is begun meanwhile, for at most so long.

        Raises:
            Unavailable: the time was over, or the server gone, before the context ended.
        """
        request = s.HoldRequest(seconds=seconds)
        with self._lasting("hold", self._stub.Hold, request, seconds) as reply:
            yield reply

    @contextmanager
    def _lasting(
        self, what: str, method: Callable[..., Any], request: Any, seconds: float
    ) -> Iterator[Any]:
        """Make a call that lasts as long as the context; yield the first reply."""
        with self._channel.errors(what):
            call = method(request, timeout=seconds + WAIT_GRACE_S, metadata=self._channel.metadata)
            reply = next(call)
        try:
            yield reply
            if not call.is_active():
                raise Unavailable(
                    f"server at {self.address} held its rows for {seconds:g} s at most and let "
                    "them go before the work was done; try again"
                )
        finally:
            call.cancel()

    def begin_cut(self, hold: str) -> None:
        """Begin a cut, which lasts as long as the hold."""
        request = s.BeginCutRequest(hold=hold)
        self._channel.call(self._stub.BeginCut, request, CALL_TIMEOUT_S, what="begin cut")

    def note_saved(self, seal: str) -> None:
        """Note that the tables are those of a checkpoint, but for changes since its cut."""
        request = s.NoteSavedRequest(seal=seal)
        self._channel.call(self._stub.NoteSaved, request, self._timeout_s, what="note checkpoint")

    def export_rows(
        self, table: str, slot_begin: int, slot_end: int, since: Lsns | None
    ) -> dict[str, NDArray[Any]]:
        """Return the rows of the cut in the slots as columns (embery/checkpoint/columns.py)."""
        request = s.ExportRequest(
            table=table, slot_begin=slot_begin, slot_end=slot_end, since=_listed(since)
        )
        return cast("dict[str, NDArray[Any]]", self._receive(self._stub.ExportRows, request))

    def export_state(self, table: str, since: Lsns | None) -> dict[str, Any]:
        """Return what the table held beside its rows at the cut."""
        request = s.ExportRequest(table=table, since=_listed(since))
        return cast("dict[str, Any]", self._receive(self._stub.ExportState, request))

    def _receive(self, method: Callable[..., Any], request: Any) -> Tree:
        with self._channel.errors("export"):
            replies = method(request, timeout=CALL_TIMEOUT_S, metadata=self._channel.metadata)
            return trees.unpack(chunk.data for chunk in replies)

    def clear_table(self, table: str) -> None:
        """Delete all rows of a table, and what is beside them."""
        request = s.TableName(table=table)
        self._channel.call(self._stub.ClearTable, request, CALL_TIMEOUT_S, what="clear table")

    def reserve_rows(self, table: str, slot_begin: int, slot_end: int, rows: int) -> None:
        """Make room for rows that come next."""
        request = s.SlotRange(table=table, slot_begin=slot_begin, slot_end=slot_end, rows=rows)
        self._channel.call(self._stub.ReserveRows, request, CALL_TIMEOUT_S, what="reserve rows")

    def import_rows(self, table: str, columns: Mapping[str, NDArray[Any]]) -> None:
        """Add rows."""
        self._send(self._stub.ImportRows, {"table": table, "columns": dict(columns)})

    def import_state(self, table: str, state: Mapping[str, Any]) -> None:
        """Take what `export_state` returned."""
        self._send(self._stub.ImportState, {"table": table, "state": dict(state)})

    def _send(self, method: Callable[..., Any], tree: Tree) -> None:
        self._channel.call(method, chunks(trees.pack(tree)), CALL_TIMEOUT_S, what="import")

    def close(self) -> None:
        """Close the connection; calls under way fail."""
        self._channel.close()


def _listed(since: Lsns | None) -> list[int]:
    return [] if since is None else since.tolist()


def chunks(frame: bytes | memoryview) -> Iterator[s.Chunk]:
    """Cut a frame into messages that gRPC carries well."""
    view = memoryview(frame)
    for begin in range(0, len(view), CHUNK_BYTES):
        yield s.Chunk(data=bytes(view[begin : begin + CHUNK_BYTES]))
