"""Generated from proto/embery/v1 by `make proto`; do not edit."""
