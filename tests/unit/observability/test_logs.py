"""Logs: levels, formats, facts, the environment."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

import embery as em
from embery.observability import logs


@pytest.fixture(autouse=True)
def _restored_logger() -> Iterator[None]:
    logger = logging.getLogger("embery")
    before = (list(logger.handlers), logger.level, logger.propagate)
    yield
    logger.handlers, logger.level, logger.propagate = before


def logged(options: logs.LogOptions) -> str:
    stream = io.StringIO()
    logs.configure(options, stream=stream)
    log = logging.getLogger("embery.checkpoint.writer")
    log.debug("too small to show")
    log.info("saved a checkpoint", extra=logs.facts(number=7, path="/a b"))
    return stream.getvalue()


def test_a_text_line_has_time_level_source_message_and_facts() -> None:
    line = logged(logs.LogOptions(level="info"))
    assert line.endswith(
        "Z INFO  embery.checkpoint.writer: saved a checkpoint number=7 path=/a b\n"
    )
    assert line.count("\n") == 1


def test_a_json_line_has_the_same_by_name() -> None:
    line = json.loads(logged(logs.LogOptions(level="info", format="json")))
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "info",
        "logger": "embery.checkpoint.writer",
        "message": "saved a checkpoint",
        "number": 7,
        "path": "/a b",
    }


def test_a_level_hides_what_is_below_it() -> None:
    assert logged(logs.LogOptions(level="warning")) == ""


@pytest.mark.parametrize("style", ["text", "json"])
def test_an_exception_is_shown(style: str) -> None:
    stream = io.StringIO()
    logs.configure(logs.LogOptions(format=style), stream=stream)
    try:
        raise RuntimeError("the cause")
    except RuntimeError:
        logging.getLogger("embery").exception("it failed")
    assert "it failed" in stream.getvalue()
    assert "RuntimeError: the cause" in stream.getvalue()


def test_configuring_twice_does_not_show_lines_twice() -> None:
    logs.configure(logs.LogOptions(level="info"), stream=io.StringIO())
    assert logged(logs.LogOptions(level="info")).count("saved") == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", logs.LogOptions()),
        ("DEBUG", logs.LogOptions(level="debug")),
        ("json", logs.LogOptions(format="json")),
        ("json, error", logs.LogOptions(level="error", format="json")),
    ],
)
def test_the_environment_says_level_and_format(text: str, expected: logs.LogOptions) -> None:
    assert logs.LogOptions.from_environment({"EMBERY_LOG": text}) == expected


@pytest.mark.parametrize("text", ["loud", "info,debug", "json,text"])
def test_an_environment_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(em.InvalidArgument, match="EMBERY_LOG must be"):
        logs.LogOptions.from_environment({"EMBERY_LOG": text})


def test_options_are_validated() -> None:
    with pytest.raises(em.InvalidArgument, match=r"LogOptions\.level"):
        logs.configure(logs.LogOptions(level="loud"))
    with pytest.raises(em.InvalidArgument, match=r"LogOptions\.format"):
        logs.configure(logs.LogOptions(format="xml"))
