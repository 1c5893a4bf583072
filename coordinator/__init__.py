"""The coordinator role: membership, routing, leases. Not part of this version."""
