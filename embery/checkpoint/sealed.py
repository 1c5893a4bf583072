"""JSON under a seal, and reading its members with their types.

The last `SEAL_BYTES` bytes of a sealed file hold the SHA-256 of all bytes before them and are
compared as a whole, so there is no byte that could change unnoticed, and the file is still plain
JSON.
"""

from __future__ import annotations

import hashlib
from dataclasses import fields
from typing import Any

from embery.errors import CheckpointCorrupt


def _seal_of(body: bytes) -> bytes:
    return b',\n"sha256": "' + hashlib.sha256(body).hexdigest().encode() + b'"\n}\n'


SEAL_BYTES = len(_seal_of(b""))


def seal(text: str) -> bytes:
    """Return the bytes of a sealed file from the JSON of an object, indented by one."""
    body = text.removesuffix("\n}").encode()
    return body + _seal_of(body)


def seal_of(data: bytes) -> str:
    """Return the seal of a sealed file: the SHA-256 that no other file has."""
    return hashlib.sha256(data[:-SEAL_BYTES]).hexdigest()


def require_seal(data: bytes, name: str, where: str) -> None:
    """Raise `CheckpointCorrupt` unless `data`, read from `where`, ends in its seal.

    Args:
        data: the whole file.
        name: of the format, for the message.
        where: name of the file, for the message.
    """
    if data[-SEAL_BYTES:] != _seal_of(data[:-SEAL_BYTES]):
        raise CheckpointCorrupt(
            f"{where}: expected a manifest of {name!r} that ends in the SHA-256 of what is "
            f"before, got {len(data)} bytes that do not match; the file is damaged, cut short or "
            "another program's"
        )


def take(members: Any, key: str, *kinds: type | None) -> Any:
    """Return a member of one of the `kinds` (None: null); raise TypeError or KeyError."""
    if not isinstance(members, dict):
        raise TypeError(f"{type(members).__name__} in place of an object with {key!r}")
    value = members[key]
    wanted = tuple(type(None) if kind is None else kind for kind in kinds)
    if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
        raise TypeError(f"{key} = {value!r}")
    return value


def take_count(members: Any, key: str) -> int:
    """Return a member that is an integer >= 0; raise TypeError, KeyError or ValueError."""
    value: int = take(members, key, int)
    if value < 0:
        raise ValueError(f"{key} = {value}")
    return value


def require_only(members: Any, kind: type, *others: str) -> None:
    """Raise ValueError if there is a member that is no field of `kind` and not of `others`."""
    extra = set(members) - {field.name for field in fields(kind)} - set(others)
    if extra:
        raise ValueError(f"unknown members {sorted(extra)} in a {kind.__name__}")
