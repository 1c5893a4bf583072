"""A server and an exporter killed at random: no answer is ever of two versions, or torn."""

from __future__ import annotations

import http.client
import json
import random
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

LOCAL = urllib.request.build_opener(urllib.request.ProxyHandler({}))
PROGRAM = Path(__file__).with_name("updates_program.py")
DEADLINE_S = 600.0
SAMPLES = 8
BODY = json.dumps(
    {
        "inputs": [
            {"name": name, "datatype": "INT64", "shape": [SAMPLES], "data": list(range(SAMPLES))}
            for name in ("x", "user")
        ]
    }
).encode()

Start = Callable[..., Any]


class Client:
    """Asks all the time, at whatever address the server has now, and keeps every answer."""

    def __init__(self) -> None:
        self.url = ""
        self.answers: list[tuple[int, tuple[float, ...]]] = []
        self.refusals: list[str] = []
        self.broken = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(0.002):
            if not self.url:
                continue
            request = urllib.request.Request(f"{self.url}/v2/models/ctr/infer", BODY)
            try:
                with LOCAL.open(request, timeout=30) as reply:
                    found = json.load(reply)
            except urllib.error.HTTPError as error:
                self.refusals.append(error.read().decode())
            except (OSError, ValueError, http.client.HTTPException):
                # The server was killed: there is no answer, or the start of one.
                self.broken += 1
            else:
                scores = tuple(found["outputs"][0]["data"])
                self.answers.append((int(found["model_version"]), scores))


class Updates:
    """The program of the updates, started again whenever it was killed."""

    def __init__(self, folder: Path, count: int) -> None:
        self.scores, self.bundles = folder / "scores", folder / "ctr"
        self.scores.mkdir()
        self._words = [str(x) for x in (self.scores, folder / "saved", self.bundles, count)]
        self._log = folder / "log"
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, str(PROGRAM), *self._words], stdout=log, stderr=log
            )

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process = self._start()

    def done(self) -> bool:
        """Return whether all updates were made; fail if the program has."""
        code = self.process.poll()
        assert code in (None, 0), self._log.read_text()[-3000:]
        return code == 0

    def made(self) -> list[Path]:
        """Return the bundles that there are."""
        return sorted(self.bundles.glob("bundle-*/manifest.json"))


def serve(start: Start, client: Client, bundles: Path) -> Any:
    role = start("serve", str(bundles), "--watch", "0.02", "--grpc-port", "0")
    words = role.line().split()
    assert words[:2] == ["serve", "ready:"], words
    client.url = words[words.index("at") + 1]
    return role


@pytest.mark.parametrize(
    ("updates", "kills"),
    [(6, 4), pytest.param(50, 40, marks=pytest.mark.long)],
)
@pytest.mark.timeout(3600)
def test_every_answer_is_of_exactly_one_version(
    tmp_path: Path, start: Start, updates: int, kills: int
) -> None:
    chance = random.Random(updates)
    program, client = Updates(tmp_path, updates), Client()
    end_s = time.monotonic() + DEADLINE_S * max(1, updates / 10)
    try:
        while not program.made():
            assert not program.done()
            assert time.monotonic() < end_s
            threading.Event().wait(0.05)
        role = serve(start, client, program.bundles)
        killed = {"server": 0, "exporter": 0}
        while not program.done():
            assert time.monotonic() < end_s, program._log.read_text()[-3000:]
            threading.Event().wait(chance.uniform(0.2, 3.0))
            if sum(killed.values()) < kills:
                victim = chance.choice(list(killed))
                killed[victim] += 1
                if victim == "exporter" and not program.done():
                    program.kill()
                elif victim == "server":
                    role.process.kill()
                    role.process.wait()
                    role = serve(start, client, program.bundles)
        newest = int(program.made()[-1].parent.name.rpartition("-")[2])
        while not client.answers or client.answers[-1][0] != newest:
            assert time.monotonic() < end_s
            threading.Event().wait(0.02)
    finally:
        client.stop()
        program.process.kill()
        program.process.wait()
    check(client, program, updates)
    assert role.finish(signal.SIGTERM)[0] == 0


def check(client: Client, program: Updates, updates: int) -> None:
    """Every answer has the scores that the model had in the version that it names, and no other."""
    expected = {
        int(path.stem): np.array(json.loads(path.read_text()), np.float32)
        for path in program.scores.glob("*.json")
    }
    for version, scores in set(client.answers):
        np.testing.assert_allclose(
            np.array(scores, np.float32), expected[version], rtol=1e-5, err_msg=f"{version}"
        )
    apart = [np.abs(a - b).max() for i, a in expected.items() for j, b in expected.items() if i < j]
    assert min(apart) > 0.1, "two versions could not be told apart"
    assert len({version for version, _ in client.answers}) >= min(updates // 2, 10)
    assert not client.refusals
