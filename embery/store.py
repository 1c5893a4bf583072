"""The store: the client handle through which tables are used, embedded or on a cluster.

`connect` opens one. The interface is the same whatever is behind it; a training script that runs on
the embedded store runs unchanged on a cluster.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from embery.errors import InvalidArgument
from embery.residuals import hand_over
from embery.table import Table

if TYPE_CHECKING:
    from typing_extensions import Self

    from embery.checkpoint import Checkpoint
    from embery.rpc.membership import Membership

U64 = NDArray[np.uint64]
F32 = NDArray[np.float32]
URL_VARIABLE = "EMBERY_STORE"


@dataclass(frozen=True, slots=True)
class BatchIdentity:
    """Which batch a push is of: servers apply it once, whoever pushes it, and how often.

    Args:
        lease: number of the lease that the batch was read by, unique in the life of a cluster.
        token: of the lease; pushes with a lower one than servers have seen are refused.
        number: of the batch in its lease, from 1. Batches are pushed in this order, each when the
            one before it was acknowledged.
    """

    lease: int
    token: int
    number: int


class PushWatcher(Protocol):
    """Whoever must know which rows change: what was read of them before is out of date."""

    def pushing(self, tables: Sequence[str], keys: Sequence[U64]) -> AbstractContextManager[None]:
        """Return a context that is open while a push to these keys is being applied."""
        ...

    def rows_replaced(self) -> None:
        """Note that all rows may have changed, by a restore."""
        ...


class Store(ABC):
    """Tables of rows, wherever they live. Every method may be called from any thread."""

    @property
    @abstractmethod
    def url(self) -> str:
        """Return the address that `connect` opened."""

    @property
    def membership(self) -> Membership | None:
        """Return what this process is to the cluster's coordinator; None without a cluster."""
        return None

    # -- tables -----------------------------------------------------------------------------------

    @abstractmethod
    def create_table(self, table: Table) -> None:
        """Create `table`; a no-op if an equal one exists.

        Raises `SchemaMismatch` if a table of this name has another definition.
        """

    @abstractmethod
    def tables(self) -> dict[str, Table]:
        """Return the definitions of all tables by name."""

    # -- rows, one table --------------------------------------------------------------------------

    @abstractmethod
    def pull(self, table: str, keys: Any, *, train: bool = True, out: F32 | None = None) -> F32:
        """Return the rows of `keys`.

        Args:
            table: name of the table.
            keys: uint64 or int64, shape (n,); duplicates allowed. numpy, torch (CPU), Arrow, or
                anything else with the buffer protocol or DLPack. An int64 key is taken as its bits.
            train: True inserts absent keys (through the table's admission) and reads a key that
                admission holds back as its initial value. False never inserts; an absent key reads
                as zeros.
            out: float32, shape (n, dim), C-contiguous; filled and returned instead of a new array.

        Returns:
            float32, shape (n, dim).

        Raises:
            TableNotFound, InvalidArgument: nothing was changed.
        """

    @abstractmethod
    def push(self, table: str, keys: Any, grads: Any) -> None:
        """Apply one optimizer step to each distinct key; returns once applied.

        Args:
            table: name of the table.
            keys: as in `pull`; the gradients of duplicates are summed in order.
            grads: float32, shape (n, dim).

        Raises:
            TableNotFound, InvalidArgument: nothing was changed.
        """

    @abstractmethod
    def put_rows(self, table: str, keys: Any, rows: Any) -> None:
        """Set rows to given values, each as if it were new: with a fresh optimizer state.

        Args:
            table: name of a table of float32, of any optimizer but FTRL.
            keys: as in `pull`, distinct; those that are absent are inserted.
            rows: float32, shape (n, dim).

        Raises:
            TableNotFound, InvalidArgument: nothing was changed.
        """

    @abstractmethod
    def pull_async(self, table: str, keys: Any, *, train: bool = True) -> Future[F32]:
        """Start a `pull`; asynchronous calls of one store run in the order they were made."""

    @abstractmethod
    def push_async(self, table: str, keys: Any, grads: Any) -> Future[None]:
        """Start a `push`; the arrays must not change until the future is done."""

    # -- rows, many tables: what the training modules use -----------------------------------------

    @abstractmethod
    def pull_batch(
        self,
        tables: Sequence[str],
        keys: Sequence[U64],
        out: Sequence[F32],
        *,
        mode: Literal["train", "eval"],
    ) -> None:
        """Pull from several tables at once: `keys[i]` of `tables[i]` into `out[i]`."""

    @abstractmethod
    def peek_batch(
        self,
        tables: Sequence[str],
        keys: Sequence[U64],
        out: Sequence[F32],
        absent: Sequence[NDArray[np.uint8]],
    ) -> None:
        """Read rows without inserting, counting or touching anything.

        Where `absent[i][j]` is set to 1 the row does not exist and `out[i][j]` is undefined. This
        is what look-ahead uses: it leaves no trace in any table.
        """

    @abstractmethod
    def push_batch(
        self,
        tables: Sequence[str],
        keys: Sequence[U64],
        grads: Sequence[F32],
        *,
        batch: BatchIdentity | None = None,
    ) -> None:
        """Push to several tables at once; returns once all is applied.

        With `batch`, which has one push, what is applied of it already is left as it is.
        """

    def join_group(self, rank: int, world: int) -> None:
        """Make the pushes of this handle parts of those of `world` workers; (0, 1) ends that.

        Each worker of a group makes the same pushes, with its own keys. A push returns once those
        of all are in, joined in the order of the ranks, and applied as one.

        Raises:
            InvalidArgument: the store is embedded, and `world` not 1.
        """
        if (rank, world) != (0, 1):
            raise InvalidArgument(
                f"join_group({rank}, {world}): only the workers of a cluster can push together, "
                f"and this store is {self.url!r}"
            )

    @abstractmethod
    def deletions(self, table: str) -> int:
        """Return how many rows `table` has ever deleted; it grows when a peeked row may be gone."""

    @abstractmethod
    def now_s(self) -> int:
        """Return the time by which rows age, in seconds since 1970.

        While it stands still, no row of a time-to-live comes to its end.
        """

    @abstractmethod
    def watch(self, watcher: PushWatcher) -> None:
        """Tell `watcher` of every push of this handle, from the thread that applies it."""

    @abstractmethod
    def unwatch(self, watcher: PushWatcher) -> None:
        """End what `watch` began; a no-op if it has ended."""

    # -- whole store ------------------------------------------------------------------------------

    @abstractmethod
    def stats(self) -> dict[str, Any]:
        """Return {"tables": {name: {"rows", "bytes", "admitted", ...}}, "servers": {...}}."""

    @abstractmethod
    def inspect(self, table: str, key: int) -> dict[str, Any] | None:
        """Return all there is to know about one row, or None if it does not exist."""

    @abstractmethod
    def evict(self, table: str) -> int:
        """Apply the table's eviction policy now; return the number of rows evicted."""

    @abstractmethod
    def checkpoint(
        self,
        dest: str | os.PathLike[str],
        *,
        delta: bool = False,
        state: Mapping[str, Any] | None = None,
        keep: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> str:
        """Save all tables, and `state`, as one consistent checkpoint under `dest`.

        It is of the moment of the call, between two pushes of every worker; pulls and pushes go on
        while it is saved.

        Args:
            dest: folder or URI; each checkpoint becomes a folder of its own in it.
            delta: save only what changed since the last checkpoint, if that is in `dest`, and at
                most 6 deltas follow each other there; else all, as without it.
            state: JSON values and numpy arrays, nested in dicts and lists: dense parameters,
                optimizer, position in the data.
            keep: leave so many checkpoints in `dest`, the newest, and those that they build on.
            progress: called with the bytes written since its last call, from any thread.

        Returns:
            the path of the manifest.

        Raises:
            ResourceExhausted: the disk is full, or too many rows changed while it was saved.
            DeadlineExceeded: a worker did not come to the end of its push in time.
            Unavailable: a server, or the file system, failed. In each case there is no checkpoint,
                those before it are as they were, and so are the tables.
        """

    @abstractmethod
    def checkpoint_async(
        self,
        dest: str | os.PathLike[str],
        *,
        delta: bool = False,
        state: Mapping[str, Any] | None = None,
        keep: int | None = None,
    ) -> Future[str]:
        """Begin a `checkpoint` of this moment, which is saved in the background.

        `state` is copied. While one is being saved, the next call waits.
        """

    @abstractmethod
    def restore(
        self, src: str | os.PathLike[str], *, progress: Callable[[int], None] | None = None
    ) -> Checkpoint:
        """Replace all tables by those of a checkpoint.

        Args:
            src: a manifest, its folder, or a folder of checkpoints, of which the newest is taken.
            progress: called with bytes that were verified, and again once they are in place, from
                any thread.

        Returns:
            the checkpoint, with the `state` it was saved with.

        Raises:
            CheckpointCorrupt: it is damaged or incomplete; the store is as before.
            SchemaMismatch: a table exists here with another definition; the store is as before.
        """

    def residuals(self) -> dict[str, Any]:
        """Return what this handle has rounded off gradients and not sent yet, to save as state.

        {table: {"keys" (n,), "rows" (n, dim), "older"}} of the tables whose `Table.wire` has error
        feedback; nothing if the store is embedded. No push may be under way.
        """
        return {}

    def load_residuals(self, parts: Sequence[Mapping[str, Any]]) -> None:
        """Replace all residuals by `parts`, each from `residuals` of one handle; they add up.

        What belongs to a table without error feedback here is logged, and dropped.
        """
        hand_over(parts, lambda *_: False)

    @abstractmethod
    def close(self) -> None:
        """Finish asynchronous calls and let go of everything. May be called twice."""

    def __enter__(self) -> Self:
        """Return the store itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the store."""
        self.close()


def connect(url: str | None = None, **options: Any) -> Store:
    """Open a store.

    Args:
        url: "embedded:" keeps the rows in this process; "embery://HOST:PORT" is a cluster, by its
            coordinator. None takes $EMBERY_STORE, which the launcher sets, else "embedded:".
        **options: `threads` that share the work of a call (int, default: the processors this
            process may use), `clock` (a callable returning seconds since 1970, for time-to-live).
            Of the embedded store also `simd` ("auto", "avx512", "avx2", "baseline"). Of a cluster
            also `transport` (one of `embery.rpc.transports.TRANSPORTS`; default:
            $EMBERY_TRANSPORT, else "auto", the first that both ends have), `timeout_s` (of every
            call; 30), `credentials` (default: those that the environment names).

    Raises:
        InvalidArgument: the URL or an option is not understood.
        Unavailable, DeadlineExceeded, Unauthenticated: the cluster cannot be reached, or refuses.
    """
    url = url or os.environ.get(URL_VARIABLE) or "embedded:"
    if not isinstance(url, str):
        raise InvalidArgument(f"connect: the URL must be a string, got {type(url).__name__}")
    scheme = url.split(":", 1)[0]
    if scheme == "embedded":
        from embery.embedded import EmbeddedStore  # noqa: PLC0415  the native module loads on use

        _require_known(url, options, {"threads", "simd", "clock"})
        return EmbeddedStore(url, **options)
    if scheme == "embery":
        from embery.cluster import ClusterStore  # noqa: PLC0415  gRPC loads on use

        _require_known(url, options, {"transport", "threads", "timeout_s", "credentials", "clock"})
        return ClusterStore(url, **options)
    raise InvalidArgument(
        f"connect: unknown store URL {url!r}; expected 'embedded:' or 'embery://HOST:PORT'"
    )


def _require_known(url: str, options: Mapping[str, Any], known: set[str]) -> None:
    unknown = sorted(set(options) - known)
    if unknown:
        raise InvalidArgument(
            f"connect({url!r}): unknown option {unknown[0]!r}; expected one of "
            + ", ".join(sorted(known))
        )
