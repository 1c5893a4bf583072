"""Keeps the last checkpoints of a folder and deletes those before them."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from embery.checkpoint import format as fmt
from embery.checkpoint import manifest as manifests
from embery.checkpoint.manifest import Manifest
from embery.checkpoint.sealed import seal_of
from embery.checkpoint.storage import Storage
from embery.errors import CheckpointCorrupt
from embery.observability.logs import facts

_log = logging.getLogger(__name__)


def complete_numbers(storage: Storage) -> list[tuple[int, str]]:
    """Return number and folder name of each folder that has a manifest, oldest first."""
    numbered = [(fmt.number_of(name), name) for name in storage.folders()]
    return sorted(
        (number, name)
        for number, name in numbered
        if number is not None and storage.child(name).child(fmt.MANIFEST).is_file()
    )


def retire(storage: Storage, keep: int) -> None:
    """Delete the checkpoints before the newest `keep`, and what is left of deleted ones.

    A base stays as long as a delta that is kept builds on it. A checkpoint that cannot be deleted
    is logged and left: the one just written is in force.
    """
    complete = complete_numbers(storage)
    if len(complete) < keep:
        return
    oldest_kept = complete[-keep][0]
    try:
        needed = _bases(storage, [name for number, name in complete if number >= oldest_kept])
    except (CheckpointCorrupt, OSError) as error:
        _log.warning(
            "deleted no old checkpoint: a newer one cannot be read", extra=facts(error=error)
        )
        return
    # Deltas before what they build on: a cut leaves none without its base.
    for name in sorted(storage.folders(), key=lambda name: fmt.number_of(name) or 0, reverse=True):
        number = fmt.number_of(name)
        if number is not None and number < oldest_kept and number not in needed:
            try:
                _delete(storage.child(name))
            except OSError as error:
                _log.warning("cannot delete an old checkpoint", extra=facts(path=name, error=error))


def _bases(storage: Storage, names: Iterable[str]) -> set[int]:
    """Return the numbers of all checkpoints that those in the folders `names` build on."""
    bases: set[int] = set()
    for name in names:
        base = read_manifest(storage.child(name))[0].base
        while base is not None and base not in bases:
            bases.add(base)
            base = read_manifest(storage.child(fmt.checkpoint_folder(base)))[0].base
    return bases


def read_manifest(folder: Storage) -> tuple[Manifest, str]:
    """Return the manifest of a checkpoint's folder, and its seal.

    Raises:
        CheckpointCorrupt: it is damaged, or another program's.
        OSError: it cannot be read.
    """
    where = folder.child(fmt.MANIFEST).address
    with folder.open(fmt.MANIFEST) as file:
        data = file.read(fmt.MANIFEST_BYTES_MAX + 1)
    if len(data) > fmt.MANIFEST_BYTES_MAX:
        raise CheckpointCorrupt(
            f"{where}: expected at most {fmt.MANIFEST_BYTES_MAX} bytes, got more; it is no manifest"
        )
    return manifests.decode(data, where), seal_of(data)


def _delete(folder: Storage) -> None:
    """Delete a checkpoint, its manifest first, so that a cut leaves no checkpoint but litter."""
    files = folder.files()
    if fmt.MANIFEST in files:
        folder.remove_files([fmt.MANIFEST])
    folder.remove_files(filter(fmt.is_data_file, files))
    foreign = [name for name in files if name != fmt.MANIFEST and not fmt.is_data_file(name)]
    if foreign or folder.folders():
        _log.warning(
            "kept the folder of a deleted checkpoint for its foreign files",
            extra=facts(path=folder.address, files=foreign),
        )
    else:
        folder.remove_folder()
