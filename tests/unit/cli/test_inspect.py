"""`embery inspect` on the golden checkpoint, whose contents are known."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from embery.cli.main import main

GOLDEN = str(Path(__file__).parents[2] / "golden" / "checkpoint-v1")


def test_a_row_is_shown_with_state_by_name(capsys: Any) -> None:
    assert main(["inspect", GOLDEN, "item", "1", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row == {
        "table": "item",
        "key": 1,
        "slot": 1741,
        "values": [0.5, -0.0],
        "state": {"s": [0.25]},
        "updates": 2,
        "last_step": 20,
        "last_time_s": 1_700_000_001,
        "lsn": 2,
    }


@pytest.mark.parametrize(
    "key", ["0xffffffffffffffff", "18446744073709551615", "0XFFFFFFFFFFFFFFFF"]
)
def test_keys_are_decimal_or_hexadecimal(capsys: Any, key: str) -> None:
    assert main(["inspect", GOLDEN, "user é", key]) == 0
    out = capsys.readouterr().out
    assert "18446744073709551615  0xffffffffffffffff" in out
    assert "63.5 -0.5 1" in out


@pytest.mark.parametrize("key", ["-1", "18446744073709551616", "1.5", "item", "0x"])
def test_what_is_no_key_is_misuse(capsys: Any, key: str) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["inspect", GOLDEN, "item", "--", key])
    assert exit_.value.code == 2
    assert key in capsys.readouterr().err


def test_infinities_are_strings_in_json(capsys: Any) -> None:
    assert main(["inspect", GOLDEN, "item", str(1 << 56), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["values"][0] == "inf"


def test_a_key_that_has_no_row_fails(capsys: Any) -> None:
    assert main(["inspect", GOLDEN, "item", "2"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "table 'item' has no row of key 2" in err


def test_a_table_is_summed_up(capsys: Any) -> None:
    assert main(["inspect", GOLDEN, "item", "--json"]) == 0
    statistics = json.loads(capsys.readouterr().out)
    assert statistics["rows"] == 4
    assert statistics["definition"]["dim"] == 2
    assert statistics["last_step"] == {"min": 10, "mean": 25.0, "max": 40}
    assert statistics["values"]["nonfinite"] == 1
    assert statistics["values"]["max"] == 4.0
    assert statistics["counters"]["step"] == 41
    assert main(["inspect", GOLDEN, "item"]) == 0
    assert "min 10, mean 25, max 40" in capsys.readouterr().out


def test_an_unknown_table_is_named_beside_the_known_ones(capsys: Any) -> None:
    assert main(["inspect", GOLDEN, "nope", "1"]) == 1
    assert "no table 'nope'; the checkpoint has ['item', 'user é']" in capsys.readouterr().err


def test_a_store_that_cannot_be_reached_says_why(capsys: Any) -> None:
    assert main(["inspect", "embedded:", "item", "1"]) == 1
    assert "lives inside the process" in capsys.readouterr().err
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        assert main(["inspect", f"embery://{address}", "item", "1"]) == 1
    assert f"{address}: nothing listens there" in capsys.readouterr().err


def test_a_string_is_hashed_to_its_key(capsys: Any) -> None:
    mmh3 = pytest.importorskip("mmh3", reason="mmh3 is not installed")
    key = mmh3.hash64("a string", 7, signed=False)[0]
    assert main(["inspect", GOLDEN, "item", "--string", "a string", "--seed", "7"]) == 1
    assert f"no row of key {key}" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["inspect", GOLDEN, "item", "--string", "a", "--seed", "-1"])
