"""The serving role: from a checkpoint to a bundle, and scoring with one."""
