"""The store on a cluster: tables live in servers, which the coordinator names."""

from __future__ import annotations

import itertools
import json
import logging
import operator
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embery import _native, checkpoint
from embery.checkpoint import Checkpoint, TableSource
from embery.cluster_tables import ClusterTable
from embery.errors import DeadlineExceeded, InvalidArgument, Unavailable
from embery.place import Place
from embery.residuals import hand_over
from embery.row_store import PullMode, RowStore, require_restorable, require_threads
from embery.rpc.client import CoordinatorClient
from embery.rpc.credentials import Credentials
from embery.rpc.membership import Membership
from embery.rpc.records import NO_SERVER, Routing, table_from_json
from embery.rpc.server_client import ServerClient
from embery.rpc.transports import TRANSPORT_VARIABLE, TRANSPORTS, connect
from embery.saving import Cut, Held
from embery.store import F32, U64, BatchIdentity
from embery.table import Table, require_same
from embery.validation import require_int

log = logging.getLogger("embery.cluster")

# Rows are held back for so long at most while they are saved or restored.
FREEZE_SECONDS = 3600.0
# A worker whose keys were refused waits so long for a newer routing before it asks again: the
# server may be the one that is behind. So long it waits where the coordinator is away.
ROUTING_WAIT_S = 1.0
ROUTING_RETRY_S = 0.1
# Where slots have copies, a server that does not answer for so long is asked again, or its
# successor; and a successor is waited for so long at a time.
ATTEMPT_S = 5.0
TAKEOVER_WAIT_S = 0.5
# So often a slot may move while a row of it is asked for.
MOVES_MAX = 8


class ClusterStore(RowStore):
    """See `Store`. Every call ends within `timeout_s`; an error names the server that it is about.

    A push that was cut off is sent again, and applied once: servers know it by its sequence. One
    that fails may have been applied by some servers.
    """

    def __init__(
        self,
        url: str,
        *,
        transport: str | None = None,
        threads: int | None = None,
        timeout_s: float = 30.0,
        credentials: Credentials | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(clock)
        transport = transport or os.environ.get(TRANSPORT_VARIABLE) or "auto"
        if transport not in TRANSPORTS:
            raise InvalidArgument(
                f"connect({url!r}): unknown transport {transport!r}; expected one of "
                + ", ".join(TRANSPORTS)
            )
        threads = require_threads(threads)
        self._url = url
        self._wanted = transport
        self._timeout_s = timeout_s
        self._credentials = credentials
        self._coordinator = CoordinatorClient(url, credentials, timeout_s)
        self._servers: dict[int, ServerClient] = {}
        self._transports: dict[int, str] = {}
        self._membership: Membership | None = None
        self._sequence = itertools.count(1)
        self._rank, self._world, self._rounds = 0, 1, itertools.count(1)
        self._routing_version = 0
        self._has_copies = False
        self._round_lock = threading.Lock()
        try:
            membership = Membership(self._coordinator, Place.of(os.environ))
            self._client = _native.Client(membership.client, threads)
            membership.start()
            self._membership = membership
            self._follow(self._coordinator.routing(0, timeout_s))
            self._refresh_tables()
        except BaseException:
            self.close()
            raise

    @property
    def url(self) -> str:
        """Return the address of the coordinator."""
        return self._url

    @property
    def membership(self) -> Membership | None:
        """See `Store.membership`."""
        return self._membership

    # -- routing ----------------------------------------------------------------------------------

    def _follow(self, routing: Routing) -> None:
        """Connect to the servers of a routing, use it, and let go of other servers."""
        with self._lock:
            if routing.version <= self._routing_version:
                return
            for number, info in routing.servers.items():
                known = self._servers.get(number)
                if known is not None and known.address == info.address:
                    continue
                server = ServerClient(info.address, self._credentials)
                self._transports[number] = self._connect(number, server)
                self._servers = {**self._servers, number: server}
                if known is not None:
                    known.close()
            self._client.set_routing(routing.version, routing.owners)
            self._routing_version = routing.version
            self._has_copies = bool((routing.backups != NO_SERVER).any())
            gone = {n: s for n, s in self._servers.items() if n not in routing.servers}
            self._servers = {n: s for n, s in self._servers.items() if n not in gone}
            for number, server in gone.items():
                self._client.disconnect(number)
                server.close()

    def _present_routing_version(self) -> int:
        self._present_servers()
        return self._routing_version

    def _present_servers(self) -> dict[int, ServerClient]:
        """Return the servers that own slots now, by number."""
        self._follow(self._coordinator.routing(0, self._timeout_s))
        return self._servers

    def _connect(self, number: int, server: ServerClient) -> str:
        """Agree on a transport with a server; return its name."""
        transport, reasons = connect(self._client, number, server, self._wanted, self._timeout_s)
        log.info("server %d: %s (%s)", number, transport, "; ".join(reasons) or "the best of both")
        return transport

    def _carry_through(self, what: str, attempt: Callable[[float], int]) -> None:
        """Call `attempt` with the seconds that are left until it returns 0: no key was refused.

        What was refused is tried again by a newer routing, what was cut off by a newer one or once
        by the same; where there are copies, again and again, for one of them will take over. So the
        end of a server that gave its slots away is not noticed, nor that of a coordinator that is
        started again in time.
        """
        deadline = time.monotonic() + self._timeout_s
        cut_off = False
        while (left_s := deadline - time.monotonic()) > 0:
            version = self._routing_version
            has_copies = self._has_copies
            try:
                if not attempt(min(left_s, ATTEMPT_S) if has_copies else left_s):
                    return
                self._await_routing(version, deadline)
            except (Unavailable, DeadlineExceeded) as error:
                if isinstance(error, DeadlineExceeded) and not has_copies:
                    raise
                with suppress(Unavailable, DeadlineExceeded):
                    self._present_servers()
                if self._routing_version == version and cut_off and not has_copies:
                    raise
                cut_off = self._routing_version == version
                if has_copies and cut_off:
                    with suppress(Unavailable, DeadlineExceeded):
                        self._follow(self._coordinator.routing(version, TAKEOVER_WAIT_S))
        raise DeadlineExceeded(
            f"{what}: {self._url} gave no routing by which all servers would accept their keys "
            f"within {self._timeout_s:g} s; see `embery status`"
        )

    def _await_routing(self, version: int, deadline: float) -> None:
        """Follow a routing newer than `version`, if one comes soon.

        Raises:
            Unavailable: one of its servers cannot be reached.
        """
        left_s = deadline - time.monotonic()
        # Another thread may have followed it already.
        if self._routing_version != version or left_s <= 0:
            return
        try:
            routing = self._coordinator.routing(version, min(left_s, ROUTING_WAIT_S))
        except DeadlineExceeded:
            return
        except Unavailable as error:
            log.info("waits for a newer routing: %s", error)
            time.sleep(min(left_s, ROUTING_RETRY_S))
        else:
            self._follow(routing)

    # -- tables -----------------------------------------------------------------------------------

    def create_table(self, table: Table) -> None:
        """See `Store.create_table`."""
        if not isinstance(table, Table):
            raise InvalidArgument(f"create_table expects an em.Table, got {type(table).__name__}")
        with self._lock:
            self._require_open()
            if table.name not in self._tables:
                self._refresh_tables()
            known = self._tables.get(table.name)
            if known is not None:
                require_same(known, table)
            else:
                self._coordinator.create_table(json.dumps(table.to_dict()))
            # An equal definition may come with another wire: the last one counts.
            self._tables[table.name] = table
            wire = table.wire
            self._client.set_wire(
                _native.table_salt(table.name),
                table.dim,
                wire.rows,
                wire.grads,
                wire.residual_rows_max,
            )

    def tables(self) -> dict[str, Table]:
        """See `Store.tables`."""
        with self._lock:
            self._require_open()
            self._refresh_tables()
            return dict(self._tables)

    def _refresh_tables(self) -> None:
        for definition in self._coordinator.tables():
            table = table_from_json(definition)
            self._tables.setdefault(table.name, table)

    def _columns(self, tables: Sequence[str]) -> tuple[list[int], list[int]]:
        """Return the salts and dims of tables."""
        return [_native.table_salt(t) for t in tables], [self._tables[t].dim for t in tables]

    # -- rows -------------------------------------------------------------------------------------

    def join_group(self, rank: int, world: int) -> None:
        """Make every push of this handle one of `world` that are applied together.

        The servers wait for the pushes of all ranks, join them in the order of the ranks and apply
        them as one; each then returns. All ranks must make the same calls in the same order.
        """
        require_int("join_group: world", world, low=1, high=2**16)
        require_int("join_group: rank", rank, low=0, high=world - 1)
        # Counted from here, where all ranks are: they may have pushed by themselves before.
        self._rank, self._world, self._rounds = rank, world, itertools.count(1)

    def _pull_rows(
        self, tables: Sequence[str], keys: Sequence[U64], out: Sequence[F32], mode: PullMode
    ) -> None:
        self._read(tables, keys, out, None, mode)

    def _peek_rows(
        self,
        tables: Sequence[str],
        keys: Sequence[U64],
        out: Sequence[F32],
        absent: Sequence[NDArray[np.uint8]],
    ) -> None:
        self._read(tables, keys, out, absent, "peek")

    def _read(
        self,
        tables: Sequence[str],
        keys: Sequence[U64],
        out: Sequence[F32],
        absent: Sequence[NDArray[np.uint8]] | None,
        mode: Any,
    ) -> None:
        salts, dims = self._columns(tables)
        now_s = self.now_s()
        # Rows that were read already are read again: a change of routing is rare.
        self._carry_through(
            "pull", lambda s: self._client.pull(salts, dims, keys, out, absent, mode, now_s, s)
        )

    def _push_rows(
        self,
        tables: Sequence[str],
        keys: Sequence[U64],
        grads: Sequence[F32],
        now_s: int,
        batch: BatchIdentity | None,
    ) -> None:
        salts, dims = self._columns(tables)
        # One round at a time: a server takes a later round for the end of an earlier one. A round
        # is of all its ranks, so the first alone keeps all of them between two.
        with self._round_lock if self._world > 1 else nullcontext(), self._gate(self._rank):
            if batch is None:
                sequence, number = next(self._sequence), next(self._rounds)
            else:
                sequence = batch.number
                number = batch.token << 32 | batch.number & 0xFFFFFFFF

            def attempt(left_s: float) -> int:
                # Servers know the sequence: what they have applied already they do not again.
                nonlocal keys, grads
                refused = [np.zeros(len(k), np.uint8) for k in keys]
                count = self._client.push(
                    salts,
                    dims,
                    keys,
                    grads,
                    sequence=sequence,
                    round=number,
                    rank=self._rank,
                    world=self._world,
                    now_s=now_s,
                    timeout_s=left_s,
                    refused=refused,
                    as_=None if batch is None else batch.lease,
                )
                if count:
                    again = [np.flatnonzero(r) for r in refused]
                    keys = [k[i] for k, i in zip(keys, again, strict=True)]
                    grads = [g[i] for g, i in zip(grads, again, strict=True)]
                return count

            self._carry_through("push", attempt)

    def _gate(self, rank: int) -> AbstractContextManager[None]:
        return self._membership.gate.push() if self._membership and not rank else nullcontext()

    def _import_rows(self, table: str, columns: dict[str, NDArray[Any]]) -> None:
        # Slots must not move meanwhile.
        with self._frozen() as owners:
            ClusterTable(self._tables[table], owners, self._servers).import_rows(columns)

    def deletions(self, table: str) -> int:
        """See `Store.deletions`."""
        self._table(table)
        return sum(server.deletions(table) for server in self._present_servers().values())

    # -- whole store ------------------------------------------------------------------------------

    def stats(self) -> dict[str, Any]:
        """Return counters by table over all servers, by server, and of this worker's client.

        {"tables": {name: ...}, "servers": {number: ...}, "worker": {...}}. Counters of a table are
        those of the embedded store; `step` is the highest of any server.
        """
        names = list(self.tables())
        tables: dict[str, dict[str, int]] = {}
        servers: dict[str, Any] = {}
        for number, server in sorted(self._present_servers().items()):
            own = {name: server.table_stats(name) for name in names}
            servers[str(number)] = {
                "address": server.address,
                "transport": self._transports[number],
                "tables": len(own),
                **{field: sum(s[field] for s in own.values()) for field in ("rows", "bytes")},
            }
            for name, counters in own.items():
                total = tables.setdefault(name, dict.fromkeys(counters, 0))
                for field, value in counters.items():
                    join = max if field == "step" else operator.add
                    total[field] = join(total[field], value)
        return {"tables": tables, "servers": servers, "worker": self._client.stats()}

    def inspect(self, table: str, key: int) -> dict[str, Any] | None:
        """See `Store.inspect`."""
        require_int(f"inspect({table!r}): key", key, low=0, high=2**64 - 1)
        self._table(table)
        slot = int(_native.slots_of(table, np.array([key], np.uint64))[0])
        for _ in range(MOVES_MAX):
            routing = self._coordinator.routing(0, self._timeout_s)
            self._follow(routing)
            row = self._servers[int(routing.owners[slot])].inspect(table, key)
            # A row that is not there may have moved with its slot since.
            if row is not None or self._present_routing_version() == routing.version:
                return row
        raise Unavailable(f"slot {slot} moved {MOVES_MAX} times while it was asked for; try again")

    def evict(self, table: str) -> int:
        """See `Store.evict`."""
        self._table(table)
        now_s = self.now_s()
        return sum(server.evict(table, now_s=now_s) for server in self._present_servers().values())

    @contextmanager
    def _cut(self) -> Iterator[Cut]:
        """Have all servers begin a cut while workers pause between two pushes.

        Slots stay where they are until all is saved.
        """
        self._require_open()
        tables = self.tables()
        with self._on_all_servers(ServerClient.held) as (owners, holds):
            rows = {name: counters["rows"] for name, counters in self.stats()["tables"].items()}
            servers = {number: self._servers[number] for number in holds}
            with ThreadPoolExecutor(len(holds)) as pool, self._coordinator.paused():
                begun = [pool.submit(servers[n].begin_cut, hold.hold) for n, hold in holds.items()]
                for each in begun:
                    each.result()
            sources: list[TableSource] = [
                ClusterTable(table, owners, servers, rows.get(name, 0))
                for name, table in tables.items()
            ]
            seals = {hold.seal for hold in holds.values()}
            yield Cut(sources, (seals.pop() or None) if len(seals) == 1 else None, self._note_saved)

    def _note_saved(self, seal: str) -> None:
        for server in self._servers.values():
            server.note_saved(seal)

    def restore(
        self, src: str | os.PathLike[str], *, progress: Callable[[int], None] | None = None
    ) -> Checkpoint:
        """See `Store.restore`. It may have been saved from any number of servers, or from none."""
        found = checkpoint.open(src, progress=progress)
        wanted = {n: Table.from_dict(entry.definition) for n, entry in found.tables.items()}
        present = self.tables()
        require_restorable(found.path, wanted, present)
        for name, table in wanted.items():
            if name not in present:
                self.create_table(table)
        with self._saving, self._frozen() as owners:
            sinks = {n: ClusterTable(t, owners, self._servers) for n, t in wanted.items()}
            checkpoint.load(found, sinks, progress=progress)
            self._note_saved(found.seal)
        # They were of the gradients of other rows.
        self._client.clear_residuals()
        for watcher in self._watchers:
            watcher.rows_replaced()
        return found

    def residuals(self) -> dict[str, Any]:
        """See `Store.residuals`."""
        kept = {name: self._client.residuals(_native.table_salt(name)) for name in self.tables()}
        return {
            name: {"keys": found[0], "rows": found[1], "older": found[2]}
            for name, found in kept.items()
            if found is not None and found[0].size
        }

    def load_residuals(self, parts: Sequence[Mapping[str, Any]]) -> None:
        """See `Store.load_residuals`."""
        self._client.clear_residuals()
        hand_over(
            parts, lambda table, *kept: self._client.set_residuals(_native.table_salt(table), *kept)
        )

    @contextmanager
    def _frozen(self) -> Iterator[NDArray[np.uint16]]:
        """Hold back changes of rows on all servers, and moves of slots; yield who owns them."""
        with self._on_all_servers(ServerClient.frozen) as (owners, _):
            yield owners

    @contextmanager
    def _on_all_servers(
        self, holding: Callable[[ServerClient, float], AbstractContextManager[Held]]
    ) -> Iterator[tuple[NDArray[np.uint16], dict[int, Held]]]:
        """Enter `holding` on all servers; yield who owns slots, and what each server said.

        Slots that moved while servers were asked one after the other let all begin again.
        """
        self._require_open()
        deadline = time.monotonic() + FREEZE_SECONDS
        version = 0
        while (left_s := deadline - time.monotonic()) > 0:
            routing = self._coordinator.routing(max(version - 1, 0), min(left_s, self._timeout_s))
            self._follow(routing)
            with ExitStack() as stack:
                # In one order, so that two savers do not wait for each other.
                held = {
                    number: stack.enter_context(holding(self._servers[number], left_s))
                    for number in sorted(routing.servers)
                }
                version = max(each.routing_version for each in held.values())
                if version == routing.version:
                    yield routing.owners, held
                    return
        raise DeadlineExceeded(
            f"{self._url}: slots moved for {FREEZE_SECONDS:g} s, and rows could not be held"
        )

    def close(self) -> None:
        """See `Store.close`."""
        super().close()
        if self._membership is not None:
            self._membership.close()
            self._membership = None
        for server in self._servers.values():
            server.close()
        self._coordinator.close()
