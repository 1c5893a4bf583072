"""The launcher: a coordinator, servers and workers as processes that live and end together."""
