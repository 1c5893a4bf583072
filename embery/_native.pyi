"""Types of the native module (csrc/bind). Everything here releases the GIL while it works."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

U64 = NDArray[np.uint64]
F32 = NDArray[np.float32]

def empty_rows(count: int, dim: int) -> F32: ...
def simd_targets() -> list[str]: ...
def slots_of(table: str, keys: U64) -> NDArray[np.uint16]: ...
def table_salt(name: str) -> int: ...
def hash_strings(
    offsets: NDArray[np.int32] | NDArray[np.int64], bytes: NDArray[np.uint8], seed: int
) -> U64: ...
def parse_hex(offsets: NDArray[np.int32] | NDArray[np.int64], bytes: NDArray[np.uint8]) -> U64: ...
def encode_rows(rows: F32, dtype: str) -> NDArray[np.uint8]: ...
def mix_keys(salt: int, keys: U64) -> U64: ...

class FrozenTable:
    """A table of a bundle, mapped into memory, or what changed of `base`. Thread-safe."""

    def __init__(self, path: str, base: FrozenTable | None = None) -> None: ...
    def positions(self, keys: U64) -> NDArray[np.int64]: ...
    @property
    def rows(self) -> int: ...
    @property
    def dim(self) -> int: ...
    @property
    def salt(self) -> int: ...
    @property
    def dtype(self) -> str: ...

class FrozenLookup:
    """Looks up and pools the rows of features: (position of the table, pooling). Thread-safe."""

    def __init__(
        self, tables: Sequence[FrozenTable], features: Sequence[tuple[int, str]]
    ) -> None: ...
    @property
    def columns(self) -> int: ...
    def pool(
        self, keys: U64, lengths: NDArray[np.int64], weights: F32 | None, samples: int, out: F32
    ) -> int: ...
    def gather(self, feature: int, keys: U64, out: F32) -> int: ...

class Store:
    """Tables in this process. Thread-safe."""

    def __init__(self, threads: int, simd: str) -> None: ...
    @property
    def simd(self) -> str: ...
    @property
    def threads(self) -> int: ...
    def create_table(self, spec: dict[str, Any]) -> int: ...
    def pull(
        self,
        tables: Sequence[int],
        keys: Sequence[U64],
        out: Sequence[F32],
        mode: Literal["train", "eval"],
        now_s: int,
    ) -> None: ...
    def peek(
        self,
        tables: Sequence[int],
        keys: Sequence[U64],
        out: Sequence[F32],
        absent: Sequence[NDArray[np.uint8]],
        now_s: int,
    ) -> None: ...
    def push(
        self, tables: Sequence[int], keys: Sequence[U64], grads: Sequence[F32], now_s: int
    ) -> None: ...
    def freeze(self) -> None: ...
    def thaw(self) -> None: ...
    def evict(self, table: int, now_s: int) -> int: ...
    def deletions(self, table: int) -> int: ...
    def stats(self, table: int) -> dict[str, int]: ...
    def row_layout(self, table: int) -> tuple[int, int]: ...
    def read_rows(self, table: int, keys: U64) -> dict[str, NDArray[Any]]: ...
    def export_rows(
        self, table: int, slot_begin: int, slot_end: int
    ) -> dict[str, NDArray[Any]]: ...
    def begin_cut(self, bytes_max: int) -> None:
        """Let the tables be exported as they are now while they change, until `end_cut`.

        At most `bytes_max` of what they were are kept for that; beyond, the cut is lost.
        """

    def end_cut(self) -> None: ...
    def export_cut_rows(
        self, table: int, slot_begin: int, slot_end: int, since: U64 | None
    ) -> dict[str, NDArray[Any]]:
        """Return the rows as of the cut that changed after `since`, the LSNs of all slots; once."""

    def export_cut_state(self, table: int, since: U64 | None) -> dict[str, Any]:
        """Return the state as of the cut; with `since`, tombstones after it, "deleted_keys"."""

    def reserve_rows(self, table: int, slot_begin: int, slot_end: int, rows: int) -> None: ...
    def import_rows(self, table: int, rows: dict[str, NDArray[Any]]) -> None: ...
    def export_state(self, table: int) -> dict[str, Any]: ...
    def import_state(self, table: int, state: dict[str, Any]) -> None: ...
    def clear_table(self, table: int) -> None: ...
    def check_slots(
        self, table: int, slot_begin: int, slot_end: int, copies: bool
    ) -> tuple[int, int]:
        """Return the number of rows in slots of one group, and a checksum of keys and LSNs.

        Args:
            copies: count those that are kept for another server instead of this store's own.
        """

class Server:
    """Serves a store to clients. Thread-safe.

    Args:
        store: whose tables are served; kept alive.
        server: number of this server in the routing.
        secret: 16 to 64 bytes that a client must show in the first frame of a connection.
        threads: that serve connections; at least 1.
    """

    def __init__(self, store: Store, *, server: int, secret: bytes, threads: int) -> None: ...
    def listen_shm(self) -> str:
        """Serve processes of this machine; return the name of the socket."""

    def listen_tcp(self, host: str, port: int) -> int:
        """Serve at an address; port 0 picks a free one. Return the port.

        Raises:
            Unavailable: the port is in use, or the host unknown.
        """

    def listen_rdma(self, device: str = "", gid_index: int = -1) -> str:
        """Serve over RDMA; return the device, its port and its address in words.

        Args:
            device: its name; "" takes the first that is fit.
            gid_index: in the table of the device's port; -1 takes an IPv4 RoCE v2 one, else IPv6.

        Raises:
            Unavailable: there is no fit device; the message says why.
        """

    def accept_rdma(self, address: bytes) -> bytes:
        """Make an RDMA connection to the end at `address`; return the address of this one."""

    def add_table(self, salt: int, table: int) -> None:
        """Serve the store's table of that id under its salt."""

    def set_routing(
        self,
        version: int,
        owners: NDArray[np.uint16],
        backups: NDArray[np.uint16],
        changed_at: NDArray[np.uint64],
    ) -> None:
        """Set owner and backup of each slot (4096,), and when the owner last changed (4096,).

        Slots that are not this server's any more are forgotten, or kept as copies if it is their
        backup; copies become its slots. A version older than the present one is ignored. On return
        nothing is under way by the routing before.
        """

    def freeze_slots(self, slot_begin: int, slot_end: int) -> None:
        """Refuse changes of slots until a newer routing comes; on return none are under way."""

    def copy_slots(
        self, target: int, slot_begin: int, slot_end: int, timeout_s: float
    ) -> tuple[int, int]:
        """Let another server follow slots; return rows and bytes once it has all of them.

        Somebody else must carry the frames meanwhile, by `next_copy_frame`.

        Raises:
            Unavailable: a newer routing has ended that.
        """

    def flush_copies(self, timeout_s: float) -> None:
        """Wait until all followers have all that happened before the call."""

    def next_copy_frame(self, target: int, timeout_s: float) -> tuple[int, bytes] | None:
        """Return the number and body of what to tell a follower next; the same until acknowledged.

        The body is empty if there is nothing to tell for `timeout_s`; None if the target does not
        follow for so long, or the server was stopped.
        """

    def acknowledge_copy(self, target: int, frame: int) -> None: ...
    def refuse_copy(self, target: int) -> None:
        """Note that the target knows of a routing by which the slots are not this server's."""

    def copy_lag(self) -> dict[int, dict[str, int]]:
        """Return by follower: slots, complete_slots, and the frames and bytes that wait."""

    def copied_slots(self) -> NDArray[np.uint16]:
        """Return the slots of other servers of which this one has copies, ascending."""

    def evict(self, table: int, now_s: int) -> int:
        """Apply a table's eviction policy; return how many rows went."""

    def note_change(self) -> None:
        """Let followers be told of rows that were changed otherwise than by requests."""

    def retire_leases(self, before: int) -> None:
        """Forget the leases of numbers below `before`, and refuse their pushes from now on."""

    def handle(self, frame: bytes) -> bytes:
        """Answer a frame that another channel carried, which has authenticated its sender.

        Blocks for a push of a group until those of all its workers are in.

        Raises:
            InvalidArgument: the frame is malformed; what is wrong with a request is in the reply.
        """

    def stats(self) -> dict[str, int]:
        """Return what was served, and what all transports together carried."""

    def traffic(self) -> dict[str, dict[str, int]]:
        """Return what each transport carried, by its name, if it listens or was used."""

    def times(self) -> dict[str, tuple[list[tuple[float, int]], float]]:
        """Return how long pulls and pushes took on the server.

        By "pull" and "push": requests in each bucket with its upper bound in seconds, the last one
        infinite; and the seconds of all together. A push waits for those of its group.
        """

    def stop(self) -> None:
        """Close listeners and connections; fail what waits. May be called twice."""

class Client:
    """A worker's side of the servers: a call goes to all that are concerned, at once. Thread-safe.

    Every call raises `Unavailable` (a server is gone), `DeadlineExceeded`, or what a server
    answers; the message names the server. Of a failed push some may have applied their part.

    Args:
        client: identity of this client in its pushes.
        threads: that share the work of a call, the caller among them; 1 to 1024.
    """

    def __init__(self, client: int, threads: int = 1) -> None: ...
    def connect_tcp(
        self,
        server: int,
        host: str,
        port: int,
        secret: bytes,
        timeout_s: float,
        bind: str | None = None,
    ) -> None:
        """Connect to a server; `bind` is the address of the local interface to use."""

    def connect_shm(self, server: int, socket: str, secret: bytes, timeout_s: float) -> None:
        """Connect to a server on this machine, by the name that its `listen_shm` returned."""

    def connect_rdma(
        self,
        server: int,
        exchange: Callable[[bytes], bytes],
        secret: bytes,
        timeout_s: float,
        device: str = "",
        gid_index: int = -1,
    ) -> None:
        """Connect to a server over RDMA; device and GID as `Server.listen_rdma` says.

        `exchange` carries the address of an end to `Server.accept_rdma` and back. It is called for
        each connection, from any thread, and must keep a deadline of its own.
        """

    def connect_call(self, server: int, call: Callable[[bytes], bytes]) -> None:
        """Reach a server through `call`, which carries a frame to `Server.handle` and back.

        It is called from other threads, from several at once, and must keep deadlines of its own.
        """

    def disconnect(self, server: int) -> None: ...
    def set_routing(self, version: int, owners: NDArray[np.uint16]) -> None:
        """Set the owner of each slot (4096,); an older version than the present one is ignored."""

    def set_wire(self, salt: int, dim: int, rows: str, grads: str, residual_rows_max: int) -> None:
        """Set how a table's rows and gradients travel from here on; "float32" both until then.

        Residuals of gradients are kept for at most `residual_rows_max` keys, none if below 2; they
        stay if nothing differs.
        """

    def residuals(self, salt: int) -> tuple[U64, F32, int] | None:
        """Return keys (n,), residuals (n, dim), and how many may be dropped first; None: no table.

        A table whose wire keeps no residuals is none.
        """

    def set_residuals(self, salt: int, keys: U64, rows: F32, older: int) -> bool:
        """Replace a table's residuals by what `residuals` returned; False if it keeps none.

        Those of a key that is there more than once add up.
        """

    def clear_residuals(self) -> None:
        """Forget the residuals of all tables, as when their rows are replaced."""

    def pull(
        self,
        salts: Sequence[int],
        dims: Sequence[int],
        keys: Sequence[U64],
        out: Sequence[F32],
        absent: Sequence[NDArray[np.uint8]] | None,
        mode: Literal["train", "eval", "peek"],
        now_s: int,
        timeout_s: float,
        refused: Sequence[NDArray[np.uint8]] | None = None,
    ) -> int:
        """Read the rows `keys[t]` (n,) of each table into `out[t]` (n, dims[t]).

        Return how many keys were refused because their servers no longer own all they were asked
        for: `refused[t]` (n,) is then 1 for those, else 0, and their rows are as before; they are
        to be asked for again with newer routing. `refused` is written only if any were. "peek"
        needs `absent[t]` (n,).
        """

    def push(
        self,
        salts: Sequence[int],
        dims: Sequence[int],
        keys: Sequence[U64],
        grads: Sequence[F32],
        *,
        sequence: int,
        round: int,
        rank: int,
        world: int,
        now_s: int,
        timeout_s: float,
        refused: Sequence[NDArray[np.uint8]] | None = None,
        as_: int | None = None,
    ) -> int:
        """Apply gradients; return how many keys were refused, as `pull` does.

        `as_` is the number of the lease that the batch is of, if it is of one, and `round >> 32`
        the token then. Every server counts a step of each table, keys or not. With `world` > 1 it
        is one of the pushes of a round, which are applied as one, in rank order, when all are in.
        """

    def send_copy(self, server: int, frame: bytes, timeout_s: float) -> int:
        """Send the body of a frame of copies; return whether slots of it were refused."""

    def stats(self) -> dict[str, int]: ...

class BatchPlan:
    """What a batch asks of its tables; never changes."""

    @property
    def keys(self) -> list[U64]: ...
    @property
    def samples(self) -> int: ...
    @property
    def row_count(self) -> int: ...
    @property
    def float_count(self) -> int: ...
    @property
    def batch_values(self) -> int: ...
    @property
    def value_ranges(self) -> list[tuple[int, int]]: ...
    def split(self, rows: F32) -> list[F32]: ...
    def split_flags(self, flags: NDArray[np.uint8]) -> list[NDArray[np.uint8]]: ...

class BatchPlanner:
    """Plans batches of one layout, pools their rows and their gradients. Thread-safe."""

    def __init__(
        self, dims: Sequence[int], features: Sequence[tuple[str, int, str]], threads: int
    ) -> None: ...
    def plan(
        self,
        values: U64,
        lengths: NDArray[np.int64],
        weights: F32 | None,
        positions: Sequence[int],
        samples: int,
    ) -> BatchPlan: ...
    def pool(self, plan: BatchPlan, rows: F32, out: F32) -> None: ...
    def pool_backward(self, plan: BatchPlan, grad: F32, grad_rows: F32) -> None: ...
    def weights_backward(
        self, plan: BatchPlan, rows: F32, grad: F32, grad_weights: F32
    ) -> None: ...
    def gather(self, plan: BatchPlan, rows: F32, out: Sequence[F32]) -> None: ...
    def gather_backward(self, plan: BatchPlan, grads: Sequence[F32], grad_rows: F32) -> None: ...

class RecentPushes:
    """Which keys were pushed last, and when. Thread-safe."""

    def __init__(self, stamps_log2: int) -> None: ...
    def record(self, salts: Sequence[int], keys: Sequence[U64], number: int) -> None: ...
    def find_stale(
        self,
        plan: BatchPlan,
        absent: NDArray[np.uint8],
        salts: Sequence[int],
        all_stale: Sequence[int],
        since: int,
    ) -> StaleRows: ...

class StaleRows:
    """Rows of a plan that must be read again; never changes."""

    @property
    def keys(self) -> list[U64]: ...
    @property
    def float_count(self) -> int: ...
    def split(self, rows: F32) -> list[F32]: ...
    def patch(self, fresh: F32, rows: F32) -> None: ...
