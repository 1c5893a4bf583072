"""The `embery` command: a file per subcommand, each loaded only when it is called."""
