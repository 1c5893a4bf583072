"""Errors that Embery raises.

One table maps the native status codes to these classes (`FROM_STATUS`); the gRPC codes of the
control plane use the same rows. Every message says what, where, what was expected, what was got and
what to do about it.
"""

from __future__ import annotations


class EmberyError(Exception):
    """Base of every error that Embery raises on purpose."""


class InvalidArgument(EmberyError, ValueError):
    """An argument has the wrong dtype, shape, dim or value; nothing was changed."""


class SchemaMismatch(EmberyError):
    """A table of this name exists with another definition."""


class TableNotFound(EmberyError, LookupError):
    """No table of this name was created in the store."""


class Unavailable(EmberyError):
    """The store, or a part of it, cannot serve now; the call may be tried again."""


class DeadlineExceeded(EmberyError, TimeoutError):
    """The call did not finish within its deadline."""


class Unauthenticated(EmberyError):
    """The credentials are missing or wrong."""


class CheckpointCorrupt(EmberyError):
    """A checkpoint is damaged, incomplete or of another kind; nothing was restored."""


class ResourceExhausted(EmberyError):
    """Memory, disk or a stated limit ran out; nothing was changed."""


class Internal(EmberyError, RuntimeError):
    """An invariant of Embery itself does not hold; please report it."""


# Native StatusCode name -> exception. csrc/base/status.h holds the same names.
FROM_STATUS: dict[str, type[EmberyError]] = {
    "INVALID_ARGUMENT": InvalidArgument,
    "SCHEMA_MISMATCH": SchemaMismatch,
    "TABLE_NOT_FOUND": TableNotFound,
    "UNAVAILABLE": Unavailable,
    "DEADLINE_EXCEEDED": DeadlineExceeded,
    "UNAUTHENTICATED": Unauthenticated,
    "CHECKPOINT_CORRUPT": CheckpointCorrupt,
    "RESOURCE_EXHAUSTED": ResourceExhausted,
    "INTERNAL": Internal,
}
