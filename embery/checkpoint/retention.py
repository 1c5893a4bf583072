"""Keeps the last checkpoints of a folder and deletes those before them."""

from __future__ import annotations

import logging

from embery.checkpoint import format as fmt
from embery.checkpoint.storage import Storage
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

    A checkpoint that cannot be deleted is logged and left: the one just written is in force.
    """
    complete = complete_numbers(storage)
    if len(complete) < keep:
        return
    oldest_kept = complete[-keep][0]
    for name in storage.folders():
        number = fmt.number_of(name)
        if number is not None and number < oldest_kept:
            try:
                _delete(storage.child(name))
            except OSError as error:
                _log.warning("cannot delete an old checkpoint", extra=facts(path=name, error=error))


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
