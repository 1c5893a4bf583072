"""The one table that maps native status codes to Python exceptions is complete."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import embery
from embery import errors

STATUS_H = (Path(__file__).parents[2] / "csrc" / "base" / "status.h").read_text(encoding="utf-8")


def enumerators() -> list[str]:
    """Return the codes of the enum in csrc/base/status.h, such as "kInvalidArgument"."""
    body = re.search(r"enum class StatusCode[^{]*{([^}]*)}", STATUS_H)
    assert body is not None
    return re.findall(r"k\w+", body[1])


def test_every_native_code_has_an_exception() -> None:
    codes = [code for code in enumerators() if code != "kOk"]
    as_names = [re.sub(r"(?<!^)([A-Z])", r"_\1", code[1:]).upper() for code in codes]
    assert as_names == list(errors.FROM_STATUS)


def test_every_code_is_named_as_the_table_names_it() -> None:
    named = dict(re.findall(r'StatusCode::(k\w+):\s*return "(\w+)"', STATUS_H))
    assert set(named) == set(enumerators())
    assert [name for name in named.values() if name != "OK"] == list(errors.FROM_STATUS)


def test_every_exception_has_exactly_one_code() -> None:
    classes = [
        value
        for _, value in inspect.getmembers(errors, inspect.isclass)
        if issubclass(value, errors.EmberyError) and value is not errors.EmberyError
    ]
    assert sorted(c.__name__ for c in classes) == sorted(
        c.__name__ for c in errors.FROM_STATUS.values()
    )


def test_every_exception_a_caller_may_handle_is_public() -> None:
    public = set(errors.FROM_STATUS.values()) - {errors.Internal}
    assert {getattr(embery, kind.__name__) for kind in public} == public
