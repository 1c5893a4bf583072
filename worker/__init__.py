"""The training role: embedding modules, look-ahead, trainer, metrics."""
