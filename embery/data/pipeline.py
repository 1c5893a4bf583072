"""Threads of a data set: ordered parallel work, and an iterator that runs ahead of its consumer.

Both are bounded, keep the order of their input whatever the timing, pass errors on to the consumer,
and end their threads when they are closed. Waiting is on conditions, never by polling.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import Generic, TypeVar

T = TypeVar("T")


def in_order(tasks: Iterator[Callable[[], T]], *, threads: int) -> Generator[T, None, None]:
    """Yield what the tasks return, in their order, while `threads` of them run ahead.

    An exception of a task is raised in its place.
    """
    pending: deque[Future[T]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="embery-data-read") as pool:
        try:
            for task in tasks:
                pending.append(pool.submit(task))
                if len(pending) > threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def in_background(items: Generator[T, None, None], *, depth: int) -> Generator[T, None, None]:
    """Yield the items of a generator that runs in a thread of its own, at most `depth` ahead.

    The thread starts with the first `next()`. It closes `items` when it ends: at their end, at an
    exception, which is raised again here, or when this generator is closed.
    """
    channel: _Channel[T] = _Channel(depth)

    def produce() -> None:
        try:
            with closing(items):
                for item in items:
                    if not channel.put(item):
                        return
        except BaseException as error:  # Raised again in the consumer.
            channel.finish(error)
        else:
            channel.finish(None)

    thread = threading.Thread(target=produce, name="embery-data-batch", daemon=True)
    thread.start()
    try:
        yield from channel
    finally:
        channel.close()
        thread.join()


class _Channel(Generic[T]):
    """A bounded queue from one thread to another that either side can end."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._changed = threading.Condition()
        # Guarded by _changed.
        self._items: deque[T] = deque()
        self._closed = False
        self._finished = False
        self._error: BaseException | None = None

    def put(self, item: T) -> bool:
        """Wait for room and add `item`; return False, without adding it, once closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._items) < self._capacity)
            if self._closed:
                return False
            self._items.append(item)
            self._changed.notify_all()
            return True

    def finish(self, error: BaseException | None) -> None:
        """End the items, with an error or without."""
        with self._changed:
            self._finished, self._error = True, error
            self._changed.notify_all()

    def close(self) -> None:
        """Refuse further items: nobody wants them."""
        with self._changed:
            self._closed = True
            self._items.clear()
            self._changed.notify_all()

    def __iter__(self) -> Iterator[T]:
        """Yield items as they come; raise the producer's error after the items before it."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._items or self._finished)
                if not self._items:
                    if self._error is not None:
                        raise self._error
                    return
                item = self._items.popleft()
                self._changed.notify_all()
            yield item
