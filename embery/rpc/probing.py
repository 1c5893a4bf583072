"""Whether a process that is not heard of has ended, without asking it."""

from __future__ import annotations

import socket

from embery.rpc.address import split_address

PROBE_TIMEOUT_S = 0.2


def has_ended(address: str) -> bool:
    """Return whether nothing listens at an address: its host answers, and refuses.

    A process that is stopped, or cannot be reached, may go on: for it the answer is False.
    """
    host, port = split_address(address, "probe")
    try:
        with socket.create_connection((host, port), PROBE_TIMEOUT_S):
            return False
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
