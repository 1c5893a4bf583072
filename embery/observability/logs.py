"""Logs of Embery: one line an event, for people or for machines.

Modules log to `logging.getLogger(__name__)`; facts go beside the message, by name:

    log.info("saved a checkpoint", extra=facts(number=7, bytes=1024))

    2026-01-31T12:00:00.123Z INFO  embery.checkpoint.writer: saved a checkpoint number=7 bytes=1024

Nothing is shown until a program calls `configure`, which the `embery` command does and a library
never does by itself. `EMBERY_LOG` is a level (debug, info, warning, error), and `json` after a
comma for one JSON object a line: `EMBERY_LOG=debug,json`.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, TextIO

from embery.errors import InvalidArgument

VARIABLE = "EMBERY_LOG"
LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("text", "json")
_FACTS = "embery_facts"


@dataclass(frozen=True, slots=True)
class LogOptions:
    """What is logged, and how."""

    level: str = "warning"
    format: str = "text"

    def validate(self) -> None:
        """Raise `InvalidArgument` naming the first field that is wrong."""
        if self.level not in LEVELS:
            raise InvalidArgument(f"LogOptions.level must be one of {LEVELS}, got {self.level!r}")
        if self.format not in FORMATS:
            raise InvalidArgument(
                f"LogOptions.format must be one of {FORMATS}, got {self.format!r}"
            )

    @staticmethod
    def from_environment(environment: Mapping[str, str] = os.environ) -> LogOptions:
        """Return the options in `EMBERY_LOG`; raise `InvalidArgument` if it says something else."""
        words = [word.strip().lower() for word in environment.get(VARIABLE, "").split(",")]
        options: dict[str, str] = {}
        for word in filter(None, words):
            field = "format" if word in FORMATS else "level"
            if field in options or (field == "level" and word not in LEVELS):
                raise InvalidArgument(
                    f"{VARIABLE} must be one of {LEVELS}, and 'json' after a comma if wanted, "
                    f"got {environment[VARIABLE]!r}"
                )
            options[field] = word
        return LogOptions(**options)


def facts(**values: Any) -> dict[str, Any]:
    """Return the `extra` of a log call that shows `values` by name."""
    return {_FACTS: values}


def configure(options: LogOptions | None = None, *, stream: TextIO | None = None) -> None:
    """Show the logs of Embery on `stream` (None: stderr). A second call replaces the first.

    Other libraries' logs are left as they are.
    """
    options = options or LogOptions.from_environment()
    options.validate()
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_JsonLines() if options.format == "json" else _TextLines())
    logger = logging.getLogger("embery")
    for old in list(logger.handlers):
        logger.removeHandler(old)
    logger.addHandler(handler)
    logger.setLevel(options.level.upper())
    logger.propagate = False


def _time_of(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class _TextLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        named = getattr(record, _FACTS, {})
        text = " ".join(
            [
                f"{_time_of(record)} {record.levelname:5} {record.name}: {record.getMessage()}",
                *(f"{name}={value}" for name, value in named.items()),
            ]
        )
        return (
            text if record.exc_info is None else f"{text}\n{self.formatException(record.exc_info)}"
        )


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": _time_of(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, _FACTS, {}),
        }
        if record.exc_info is not None:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)
