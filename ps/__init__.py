"""The server role: owns slots and serves their rows."""
