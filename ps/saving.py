"""The part of a server's service that saves tables and restores them."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np

from embery.checkpoint.background import give_way, save_threads
from embery.checkpoint.tables import Lsns
from embery.errors import DeadlineExceeded, InvalidArgument, Unavailable
from embery.ps.tables import ServedTables
from embery.rpc import trees
from embery.rpc.server_client import CALL_TIMEOUT_S, chunks
from embery.rpc.serving import answering, streaming
from embery.rpc.v1 import server_pb2 as s
from embery.rpc.v1.server_pb2_grpc import ServerServicer
from embery.saving import cut_bytes_max

FREEZE_SECONDS_MAX = 3600.0


class SavingService(ServerServicer):
    """See proto/embery/v1/server.proto. Nothing is held longer than its caller is there."""

    def __init__(self, tables: ServedTables) -> None:
        self._tables = tables
        self._lock = threading.Lock()
        # Those of calls are needed for other calls, at the usual priority.
        self._exports = ThreadPoolExecutor(save_threads(), "embery-export", initializer=give_way)
        # Guarded by _lock: of the caller that holds slots, and whether it has begun a cut.
        self._hold = ""
        self._has_cut = False

    @streaming
    def Freeze(self, request: s.FreezeRequest, context: Any) -> Iterator[s.FreezeReply]:
        """Hold back changes of rows until the caller cancels."""
        with self._settled(request.seconds) as version:
            yield from self._frozen(request.seconds, version, context)

    @streaming
    def Hold(self, request: s.HoldRequest, context: Any) -> Iterator[s.HoldReply]:
        """Keep slots where they are, and the cut that the caller begins, until it cancels."""
        over = threading.Event()
        with self._settled(request.seconds) as version:
            hold = uuid.uuid4().hex
            with self._lock:
                self._hold = hold
            try:
                if not context.add_callback(over.set):
                    return
                yield s.HoldReply(routing_version=version, hold=hold, seal=self._tables.seal)
                over.wait(request.seconds)
            finally:
                with self._lock:
                    self._hold = ""
                    if self._has_cut:
                        self._tables.store.end_cut()
                    self._has_cut = False

    @answering
    def BeginCut(self, request: s.BeginCutRequest, context: Any) -> s.BeginCutReply:
        """Begin a cut for the caller that holds slots."""
        rows_bytes = sum(self._tables.stats(name)["bytes"] for name in self._tables.names)
        with self._lock:
            if request.hold != self._hold or self._has_cut:
                raise Unavailable("begin cut: the hold that it was for has ended; try again")
            self._tables.store.begin_cut(cut_bytes_max(rows_bytes))
            self._has_cut = True
        return s.BeginCutReply()

    @answering
    def NoteSaved(self, request: s.NoteSavedRequest, context: Any) -> s.NoteSavedReply:
        """Note which checkpoint the tables are of."""
        self._tables.seal = request.seal
        return s.NoteSavedReply()

    @contextmanager
    def _settled(self, seconds: float) -> Iterator[int]:
        """Keep slots where they are; yield the version of the routing."""
        if not 0 < seconds <= FREEZE_SECONDS_MAX:
            raise InvalidArgument(
                f"hold: expected 0 < seconds <= {FREEZE_SECONDS_MAX:g}, got {seconds:g}"
            )
        version = self._tables.settle(seconds)
        if version is None:
            raise DeadlineExceeded(
                f"hold: slots that move did not arrive, or another checkpoint was not saved, "
                f"within {seconds:g} s"
            )
        try:
            yield version
        finally:
            self._tables.unsettle()

    def _frozen(self, seconds: float, version: int, context: Any) -> Iterator[s.FreezeReply]:
        frozen, over = threading.Event(), threading.Event()
        context.add_callback(over.set)

        # One thread of its own: whoever froze the store must also thaw it.
        def hold() -> None:
            self._tables.store.freeze()
            frozen.set()
            over.wait(seconds)
            self._tables.store.thaw()

        holder = threading.Thread(target=hold, name="embery-freeze")
        holder.start()
        try:
            if not frozen.wait(seconds):
                raise DeadlineExceeded(
                    f"freeze: changes under way did not end within {seconds:g} s"
                )
            yield s.FreezeReply(routing_version=version)
            over.wait(seconds)
        finally:
            over.set()
            holder.join()

    @streaming
    def ExportRows(self, request: s.ExportRequest, context: Any) -> Iterator[s.Chunk]:
        """Return the rows of the cut in a range of slots."""

        def export() -> memoryview:
            columns = self._tables.store.export_cut_rows(
                self._tables.id_of(request.table),
                request.slot_begin,
                request.slot_end,
                _since(request),
            )
            return trees.pack(columns)

        yield from chunks(self._exports.submit(export).result(CALL_TIMEOUT_S))

    @streaming
    def ExportState(self, request: s.ExportRequest, context: Any) -> Iterator[s.Chunk]:
        """Return what a table held beside its rows at the cut."""
        table = self._tables.id_of(request.table)
        yield from chunks(trees.pack(self._tables.store.export_cut_state(table, _since(request))))

    @answering
    def ClearTable(self, request: s.TableName, context: Any) -> s.ImportReply:
        """Delete all rows."""
        self._tables.seal = ""
        self._tables.store.clear_table(self._tables.id_of(request.table))
        self._tables.native.note_change()
        return s.ImportReply()

    @answering
    def ReserveRows(self, request: s.SlotRange, context: Any) -> s.ImportReply:
        """Make room for rows."""
        self._tables.store.reserve_rows(
            self._tables.id_of(request.table), request.slot_begin, request.slot_end, request.rows
        )
        return s.ImportReply()

    @answering
    def ImportRows(self, request_iterator: Iterator[s.Chunk], context: Any) -> s.ImportReply:
        """Add rows."""
        table, columns = _named(request_iterator, "columns")
        self._tables.store.import_rows(self._tables.id_of(table), columns)
        self._tables.native.note_change()
        return s.ImportReply()

    @answering
    def ImportState(self, request_iterator: Iterator[s.Chunk], context: Any) -> s.ImportReply:
        """Take what a table holds beside its rows."""
        table, state = _named(request_iterator, "state")
        self._tables.store.import_state(self._tables.id_of(table), state)
        self._tables.native.note_change()
        return s.ImportReply()


def _since(request: s.ExportRequest) -> Lsns | None:
    return np.array(request.since, np.uint64) if request.since else None


def _named(request: Iterator[s.Chunk], field: str) -> tuple[str, dict[str, Any]]:
    """Return the table and the field of the tree that a request carries."""
    tree = trees.unpack(chunk.data for chunk in request)
    if not isinstance(tree, dict) or not isinstance(tree.get(field), dict):
        raise InvalidArgument(f"import: expected a tree with 'table' and {field!r}")
    return str(tree.get("table")), tree[field]
