"""Entry point of the `embery` command.

Exit codes: 0 done, 1 failed, 2 misused. An error is one line on stderr; `--debug` adds the
traceback.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import cast

from embery import __version__
from embery.cli.command import Command, fail
from embery.errors import EmberyError
from embery.observability import logs

OK, FAILED, MISUSED = 0, 1, 2

# Name -> one line of help. The module embery.cli.<name> is imported when its command is called.
COMMANDS = {
    "run": "run a training script on servers and workers",
    "status": "show the servers, workers and tables of a cluster",
    "scale": "change how many servers a cluster has",
    "drain": "take a server out of a cluster",
    "checkpoint": "save the tables of a cluster while it trains",
    "restore": "put the tables of a checkpoint into a cluster",
    "coordinator": "run the coordinator of a cluster",
    "ps": "run a server of a cluster",
    "worker": "run a training script as one of the workers of a cluster",
    "serve": "answer requests for scores with an exported model, over HTTP and gRPC",
    "inspect": "show a row, or a table's statistics, of a checkpoint or a cluster",
    "export": "make a bundle, which can be served, or Parquet files from a checkpoint",
    "eval": "measure AUC, logloss and calibration of a bundle on data",
    "bench": "measure how fast rows are pulled and pushed, of a cluster or in this process",
    "doctor": "show what this machine offers Embery, what is missing, and how it reaches a cluster",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (None: that of this process); return the exit code."""
    argv = sys.argv[1:] if argv is None else list(argv)
    # gRPC reports failures on stderr, in its own words, which our errors then say again. It reads
    # this when it is first imported.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    parser, command = _parser(argv)
    arguments = parser.parse_args(argv)
    if command is None:
        parser.print_usage(sys.stderr)
        fail(f"a command is needed, one of: {', '.join(COMMANDS)}")
        return MISUSED
    try:
        logs.configure()
        return command.run(arguments)
    except EmberyError as error:
        if arguments.debug:
            raise
        fail(str(error))
        return FAILED
    except KeyboardInterrupt:
        fail("interrupted")
        return FAILED
    except BrokenPipeError:
        # Whoever read our output has seen enough; there is nobody left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK


def _parser(argv: Sequence[str]) -> tuple[argparse.ArgumentParser, Command | None]:
    """Return the parser, and the command that `argv` names, the only one that is loaded."""
    parser = argparse.ArgumentParser(
        prog="embery",
        description="A parameter-server training runtime for sparse recommendation and ads models.",
        epilog="'embery COMMAND --help' explains a command and gives an example.",
    )
    parser.add_argument(
        "--version", action="version", version=f"embery {__version__}", help="show the version"
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND")
    named = next((word for word in argv if not word.startswith("-")), None)
    command: Command | None = None
    for name, summary in COMMANDS.items():
        child = subparsers.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name == named:
            command = cast(Command, importlib.import_module(f"embery.cli.{name}"))
            command.add_arguments(child)
            child.epilog = f"example:\n  {command.EXAMPLE}"
    return parser, command


if __name__ == "__main__":
    sys.exit(main())
