"""The part of a server's service that saves tables and restores them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

from embery.errors import DeadlineExceeded, InvalidArgument
from embery.ps.tables import ServedTables
from embery.rpc import trees
from embery.rpc.server_client import chunks
from embery.rpc.serving import answering, streaming
from embery.rpc.v1 import server_pb2 as s
from embery.rpc.v1.server_pb2_grpc import ServerServicer

FREEZE_SECONDS_MAX = 3600.0


class SavingService(ServerServicer):
    """See proto/embery/v1/server.proto. A server is frozen no longer than its caller is there."""

    def __init__(self, tables: ServedTables) -> None:
        self._tables = tables

    @streaming
    def Freeze(self, request: s.FreezeRequest, context: Any) -> Iterator[s.FreezeReply]:
        """Hold back changes of rows until the caller cancels."""
        if not 0 < request.seconds <= FREEZE_SECONDS_MAX:
            raise InvalidArgument(
                f"freeze: expected 0 < seconds <= {FREEZE_SECONDS_MAX:g}, got {request.seconds:g}"
            )
        version = self._tables.settle(request.seconds)
        if version is None:
            raise DeadlineExceeded(
                f"freeze: slots that move did not arrive within {request.seconds:g} s"
            )
        try:
            yield from self._frozen(request.seconds, version, context)
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
    def ExportRows(self, request: s.SlotRange, context: Any) -> Iterator[s.Chunk]:
        """Return the rows of a range of slots."""
        columns = self._tables.store.export_rows(
            self._tables.id_of(request.table), request.slot_begin, request.slot_end
        )
        yield from chunks(trees.pack(columns))

    @streaming
    def ExportState(self, request: s.TableName, context: Any) -> Iterator[s.Chunk]:
        """Return what a table holds beside its rows."""
        state = self._tables.store.export_state(self._tables.id_of(request.table))
        yield from chunks(trees.pack(state))

    @answering
    def ClearTable(self, request: s.TableName, context: Any) -> s.ImportReply:
        """Delete all rows."""
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


def _named(request: Iterator[s.Chunk], field: str) -> tuple[str, dict[str, Any]]:
    """Return the table and the field of the tree that a request carries."""
    tree = trees.unpack(chunk.data for chunk in request)
    if not isinstance(tree, dict) or not isinstance(tree.get(field), dict):
        raise InvalidArgument(f"import: expected a tree with 'table' and {field!r}")
    return str(tree.get("table")), tree[field]
