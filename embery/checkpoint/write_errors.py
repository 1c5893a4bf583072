"""What a file system says when a folder cannot be written, as errors of ours."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from embery.errors import ResourceExhausted, Unavailable

# No room, no quota, beyond the limit on files.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def write_errors(where: str, what: str, when_full: str) -> Iterator[None]:
    """Raise errors of the file system as ours, with the path that failed.

    Args:
        where: the path, for errors that name none.
        what: "checkpoint": is written.
        when_full: what has become of it, and what to do.

    Raises:
        ResourceExhausted: the disk is full.
        Unavailable: anything else.
    """
    try:
        yield
    except OSError as error:
        path, reason = error.filename or where, error.strerror or str(error)
        if error.errno in _FULL:
            raise ResourceExhausted(f"{path}: {reason}; {when_full}") from error
        raise Unavailable(f"{path}: cannot write the {what}: {reason}") from error
