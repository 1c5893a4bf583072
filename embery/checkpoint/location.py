"""From a path or URI to its storage."""

from __future__ import annotations

import os
import re
from urllib.parse import unquote, urlsplit

import pyarrow as pa
from pyarrow import fs

from embery.checkpoint.local import LocalStorage
from embery.checkpoint.objects import ObjectStorage
from embery.checkpoint.storage import Storage
from embery.errors import InvalidArgument

_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def storage_of(address: str | os.PathLike[str]) -> Storage:
    """Return the storage of a path or URI, which need not exist.

    Raises:
        InvalidArgument: it is empty, or no file system speaks this URI.
    """
    text = os.fspath(address)
    if not isinstance(text, str) or not text:
        raise InvalidArgument(f"checkpoint: expected a path or URI, got {address!r}")
    if not _URI.match(text):
        return LocalStorage(text)
    uri = urlsplit(text)
    if uri.scheme == "file":
        if uri.netloc not in ("", "localhost"):
            raise InvalidArgument(f"checkpoint: expected file:///PATH of this host, got {text!r}")
        return LocalStorage(unquote(uri.path))
    try:
        filesystem, path = fs.FileSystem.from_uri(text)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ImportError, ValueError) as error:
        raise InvalidArgument(
            f"checkpoint: no file system for {text!r}: {error}; expected a path, or a URI that "
            "pyarrow.fs.FileSystem.from_uri understands (file, s3, gs, abfs, hdfs, fsspec+...)"
        ) from error
    return ObjectStorage(text, filesystem, path)
