"""The server role: owns slots and serves their rows. Not part of this version."""
