"""The coordinator role: membership, routing, the catalogue of tables."""
