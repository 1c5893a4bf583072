"""The serving role: export, frozen bundle, inference server. Not part of this version."""
