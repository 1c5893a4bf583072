"""How the roles speak to each other: addresses, credentials, errors, gRPC."""
