"""A server's gRPC service: negotiation, administration, and the data path that always works."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from embery.errors import InvalidArgument
from embery.ps.copying import copy_slots, hand_over_slots
from embery.ps.links import Links
from embery.ps.saving import SavingService
from embery.ps.tables import ServedTables, SlotRange
from embery.rpc.records import routing_from
from embery.rpc.server_client import DATA_VERSIONS, ServerClient, chunks
from embery.rpc.serving import answering, require_frame_size, streaming
from embery.rpc.v1 import server_pb2 as s

FRAME_BYTES_MAX = 1 << 30


@dataclass(frozen=True, slots=True)
class DataPlane:
    """How this server's rows can be had, beside in-band gRPC.

    Args:
        offers: best first.
        reasons: a line for each transport that is not offered.
        host: identity of the machine; memory is shared only within it.
    """

    offers: tuple[s.Offer, ...]
    reasons: tuple[str, ...]
    host: str


class ServerService(SavingService):
    """See proto/embery/v1/server.proto."""

    def __init__(
        self,
        number: int,
        tables: ServedTables,
        links: Links,
        data: DataPlane,
        secret: bytes,
    ) -> None:
        super().__init__(tables)
        self._links = links
        self._number = number
        self._data = data
        self._secret = secret

    @answering
    def Negotiate(self, request: s.NegotiateRequest, context: Any) -> s.NegotiateReply:
        """Say how rows can travel."""
        common = set(request.versions) & set(DATA_VERSIONS)
        if not common:
            raise InvalidArgument(
                f"the caller speaks versions {list(request.versions)} of the data plane, expected "
                f"one of {list(DATA_VERSIONS)}; install the same version of embery everywhere"
            )
        near = request.host_identity == self._data.host
        far = [] if near else ["shm: worker and server share no host"]
        return s.NegotiateReply(
            number=self._number,
            version=max(common),
            offers=[o for o in self._data.offers if near or not o.HasField("shm")],
            reasons=[*self._data.reasons, *far],
            secret=self._secret,
        )

    @answering
    def CreateTable(
        self, request: s.CreateServerTableRequest, context: Any
    ) -> s.CreateServerTableReply:
        """Create a table."""
        self._tables.create(request.definition_json)
        return s.CreateServerTableReply()

    @answering
    def SetRouting(self, request: s.SetRoutingRequest, context: Any) -> s.SetRoutingReply:
        """Serve by a routing."""
        routing = routing_from(request.routing)
        version = self._tables.follow(routing)
        self._links.follow(routing)
        return s.SetRoutingReply(version=version)

    @answering
    def TableStats(self, request: s.TableStatsRequest, context: Any) -> s.TableStatsReply:
        """Return counters."""
        return s.TableStatsReply(counters=self._tables.stats(request.table))

    @answering
    def Inspect(self, request: s.InspectRequest, context: Any) -> s.InspectReply:
        """Return a row in words."""
        row = self._tables.inspect(request.table, request.key)
        return s.InspectReply(row_json="" if row is None else json.dumps(row))

    @answering
    def Evict(self, request: s.EvictRequest, context: Any) -> s.EvictReply:
        """Evict rows."""
        rows = self._tables.evict(request.table, request.now_s, request.request_id)
        return s.EvictReply(rows=rows)

    @answering
    def Deletions(self, request: s.DeletionsRequest, context: Any) -> s.DeletionsReply:
        """Return how many rows were ever deleted."""
        return s.DeletionsReply(rows=self._tables.deletions(request.table))

    @answering
    def CopySlots(self, request: s.CopySlotsRequest, context: Any) -> s.CopySlotsReply:
        """Let another server follow slots, and hand them over if that is wanted."""
        slots = SlotRange(request.slot_begin, request.slot_end)
        version = request.routing_version
        to = (request.target_number, request.target)
        copied = copy_slots(self._tables, self._links, slots, version, to)
        frozen_s = 0.0
        if request.hand_over:
            with closing(ServerClient(request.target, self._links.credentials)) as target:
                frozen_s = hand_over_slots(self._tables, slots, version, target)
        return s.CopySlotsReply(rows=copied.rows, bytes=copied.bytes, frozen_seconds=frozen_s)

    @answering
    def CheckCopy(self, request: s.SlotRange, context: Any) -> s.CheckCopyReply:
        """Count what there is of copies of slots."""
        slots = SlotRange(request.slot_begin, request.slot_end)
        rows, checksum = self._tables.check(request.table, slots, copies=True)
        return s.CheckCopyReply(rows=rows, checksum=checksum)

    @answering
    def ConnectRdma(self, request: s.RdmaEnd, context: Any) -> s.RdmaEnd:
        """Make this server's end of an RDMA connection."""
        return s.RdmaEnd(address=self._tables.native.accept_rdma(request.address))

    @streaming
    def Call(self, request_iterator: Iterator[s.Chunk], context: Any) -> Iterator[s.Chunk]:
        """Answer a frame of the data plane."""
        parts, total = [], 0
        for chunk in request_iterator:
            total += len(chunk.data)
            require_frame_size(total, FRAME_BYTES_MAX)
            parts.append(chunk.data)
        yield from chunks(self._tables.native.handle(b"".join(parts)))
