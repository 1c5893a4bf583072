"""Trees of values and arrays as messages: the bytes of a tree file (docs/formats/checkpoint.md)."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa

from embery.checkpoint import tree as codec
from embery.checkpoint.format import Tree


def pack(tree: Tree) -> memoryview:
    """Return `tree` as bytes; `InvalidArgument` if a value has no place in one."""
    text, arrays = codec.encode(tree)
    schema = codec.schema(text)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as file:
        for batch in codec.batches(arrays, schema):
            file.write_batch(batch)
    return memoryview(sink.getvalue())


def unpack(chunks: Iterable[bytes]) -> Tree:
    """Return the tree of which `pack` made the joined `chunks`; `CheckpointCorrupt` if none did."""
    with pa.ipc.open_file(pa.py_buffer(b"".join(chunks))) as file:
        return codec.read(file)
