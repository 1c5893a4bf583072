"""A cluster of real processes under faults, and what must be true of its tables afterwards.

A slot has two copies, so one server may be lost until all slots have two again; the harness waits
for that before each fault that takes a server away. The coordinator may be killed at any time.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import embery as em
from tests.chaos.client import Client
from tests.chaos.faults import KINDS, MACHINE_KINDS, Fault, schedule
from tests.chaos.machine import Network, full, small_disk
from tests.integration.cluster.pushing import WAIT_S, Cluster, Pusher, assert_counted_once
from tests.integration.roles import Roles, RunningRole

SERVERS, SERVERS_MAX = 3, 5
# Longer than by default: a server of a loaded machine is not to be taken for a lost one.
LEASE_S = 4.0
# By then it is known whether a server that was frozen had been given up before it woke.
SETTLE_S = 2.0


class Chaos:
    """Carries out faults, and notes them.

    Args:
        stack: ends the processes.
        folder: for the coordinator's state and what processes log.
        say: is told of each fault.
        machine: put the processes on a network and the state on a disk that can be broken.
    """

    def __init__(
        self, stack: ExitStack, folder: Path, say: Callable[[str], None], *, machine: bool
    ) -> None:
        self._folder, self._say = folder, say
        self._state = folder / "state"
        if machine:
            stack.enter_context(small_disk(self._state))
        else:
            self._state.mkdir()
        self._network = Network(stack) if machine else None
        self._addresses: dict[RunningRole, str] = {}
        self._place: tuple[str, tuple[str, ...]] | None = None
        self._roles = stack.enter_context(Roles())
        self._started = 0
        self._begun = time.monotonic()
        self.log: list[str] = []
        self.cluster = Cluster(
            self._start,
            *("--expect-ps", str(SERVERS), "--replicas", "2", "--lease", str(LEASE_S)),
            *("--state", str(self._state / "cluster.sqlite")),
        )
        stack.callback(self.cluster.close)
        self.cluster.add(SERVERS)
        self.cluster.wait_whole()
        self.pushers = [Pusher(self.cluster.url, seed) for seed in range(2)]
        self.clients: list[Client] = []
        stack.callback(self._end_clients)
        for pusher in self.pushers:
            pusher.start()
        self._new_client()
        self.get_on(3)

    def _start(self, role: str, *arguments: str, **options: Any) -> RunningRole:
        self._started += 1
        log = self._folder / f"{self._started:03}-{role}.log"
        address = ""
        if self._network is not None:
            # A coordinator that is started again has the address that it had.
            keeps = role == "coordinator" and self._place is not None
            place = self._place if keeps and self._place else self._network.place()
            self._place = place if role == "coordinator" else self._place
            address, options["within"] = place
            arguments = (*arguments, "--host", address, "--insecure")
        running = self._roles.start(role, *arguments, log=log, EMBERY_LOG="INFO", **options)
        self._addresses[running] = address
        return running

    def _new_client(self) -> None:
        self.clients.append(Client(self.cluster.url, 1000 + len(self.clients)))
        self.clients[-1].wait_more(1)

    def _end_clients(self) -> None:
        for pusher in self.pushers:
            pusher.stopping.set()
        for client in self.clients:
            if client.process.poll() is None:
                client.end(signal.SIGKILL)
        for pusher in self.pushers:
            pusher.join(2 * WAIT_S)

    def note(self, what: str) -> None:
        """Add a line to the log of faults."""
        self.log.append(f"{time.monotonic() - self._begun:7.2f} s  {what}")
        self._say(self.log[-1])

    def get_on(self, pushes: int) -> None:
        """Wait until every pusher has pushed so often again."""
        for pusher in self.pushers:
            pusher.wait_more(pushes)

    def pause(self, seconds: float) -> None:
        """Let something be as it is for so long; fail at once if a pusher does."""
        self.pushers[0].join(seconds)
        assert [pusher.error for pusher in self.pushers] == [None, None]

    # -- faults -----------------------------------------------------------------------------------

    def carry_out(self, fault: Fault) -> None:
        """Let a fault happen, and see that pushes go on."""
        self.get_on(fault.pushes)
        getattr(self, fault.kind.replace(" ", "_"))(fault)
        self.get_on(3)

    def _victim(self, fault: Fault) -> int:
        self.cluster.wait_whole()
        numbers = sorted(self.cluster.servers)
        return numbers[int(fault.choice * len(numbers))]

    def _replenish(self) -> None:
        while len(self.cluster.servers) < SERVERS:
            self._add()

    def _add(self) -> None:
        # One that is not wanted would be drained.
        self.cluster.coordinator.scale(len(self.cluster.servers) + 1)
        self.cluster.add()
        self.note(f"added server {max(self.cluster.servers)}")

    def _meanwhile(self, fault: Fault) -> None:
        if fault.with_coordinator:
            self.note("kill the coordinator meanwhile, and start it again")
            self.cluster.restart_coordinator()

    def kill_server(self, fault: Fault) -> None:
        victim = self._victim(fault)
        self.note(f"kill server {victim}")
        self.cluster.kill(victim)
        self._meanwhile(fault)
        self.get_on(3)
        self.cluster.wait_gone(victim)
        self._replenish()

    def freeze_server(self, fault: Fault) -> None:
        victim = self._victim(fault)
        self.note(f"freeze server {victim} for {fault.seconds:.1f} s")
        process = self.cluster.servers[victim].process
        process.send_signal(signal.SIGSTOP)
        self._meanwhile(fault)
        self.pause(fault.seconds)
        process.send_signal(signal.SIGCONT)
        self.pause(SETTLE_S)

    def kill_coordinator(self, fault: Fault) -> None:
        self._rest(fault)
        self.note("kill the coordinator")
        self.cluster.role.process.kill()
        if fault.with_coordinator:
            self.get_on(fault.pushes)
        self.cluster.restart_coordinator()

    def freeze_coordinator(self, fault: Fault) -> None:
        self._rest(fault)
        self.note(f"freeze the coordinator for {fault.seconds:.1f} s")
        self.cluster.role.process.send_signal(signal.SIGSTOP)
        self.pause(fault.seconds)
        if fault.with_coordinator:
            self.get_on(fault.pushes)
        self.cluster.role.process.send_signal(signal.SIGCONT)
        self.pause(SETTLE_S)

    def _rest(self, fault: Fault) -> None:
        """Wait, for some of the faults, until no slot is moved any more.

        Then pushes must go on without the coordinator. In a move they may wait for its decision.
        """
        if fault.with_coordinator:
            self.cluster.wait_whole()
            self.cluster.wait_even()

    def add_server(self, fault: Fault) -> None:
        if len(self.cluster.servers) < SERVERS_MAX:
            self._add()
            self.get_on(fault.pushes)
            self._meanwhile(fault)

    def drain_server(self, fault: Fault) -> None:
        if len(self.cluster.servers) <= SERVERS - 1:
            self._add()
        victim = self._victim(fault)
        self.note(f"drain server {victim}")
        self.cluster.coordinator.drain(victim)
        self.get_on(fault.pushes)
        self._meanwhile(fault)
        self._wait_ended(victim)
        self._replenish()

    def scale_servers(self, fault: Fault) -> None:
        count = SERVERS - 1 + int(fault.choice * (SERVERS_MAX - SERVERS + 2))
        while len(self.cluster.servers) < count:
            self._add()
        self.cluster.wait_whole()
        self.note(f"scale to {count} servers")
        self.cluster.coordinator.scale(count)
        self.get_on(fault.pushes)
        self._meanwhile(fault)
        for number in sorted(self.cluster.servers)[count:]:
            self._wait_ended(number)

    def _wait_ended(self, number: int) -> None:
        """Wait until a server has given all it had to others, and has ended."""
        assert self.cluster.servers[number].process.wait(WAIT_S) == 0
        del self.cluster.servers[number]

    def cut_off_server(self, fault: Fault) -> None:
        victim = self._victim(fault)
        self._cut_off(f"server {victim}", self.cluster.servers[victim], fault)

    def cut_off_coordinator(self, fault: Fault) -> None:
        self._cut_off("the coordinator", self.cluster.role, fault)

    def _cut_off(self, name: str, role: RunningRole, fault: Fault) -> None:
        assert self._network is not None
        self.note(f"cut off {name} for {fault.seconds:.1f} s")
        with self._network.cut_off(self._addresses[role]):
            self.pause(fault.seconds)
        self.pause(SETTLE_S)

    def fill_disk(self, fault: Fault) -> None:
        victim = self._victim(fault)
        self.note(
            f"fill the coordinator's disk for {fault.seconds:.1f} s, and kill server {victim}"
        )
        if len(self.cluster.servers) < SERVERS_MAX:
            # Slots are on their way to it when there is no room to record where they are.
            self._add()
        with full(self._state):
            self.cluster.kill(victim)
            self.pause(fault.seconds)
        self._meanwhile(fault)
        self.get_on(3)
        self.cluster.wait_gone(victim)
        self._replenish()

    def kill_client(self, fault: Fault) -> None:
        client = self.clients[-1]
        client.wait_more(fault.pushes)
        client.end(signal.SIGKILL)
        self.note(f"killed client {client.seed} after {client.acknowledged} pushes")
        self._new_client()

    def freeze_client(self, fault: Fault) -> None:
        client = self.clients[-1]
        self.note(f"freeze client {client.seed} for {fault.seconds:.1f} s")
        client.process.send_signal(signal.SIGSTOP)
        self.pause(fault.seconds)
        client.process.send_signal(signal.SIGCONT)
        client.wait_more(1)

    # -- the end ----------------------------------------------------------------------------------

    def check(self) -> None:
        """Assert that everything acknowledged is there, and counts once."""
        self.cluster.wait_whole()
        for pusher in self.pushers:
            pusher.finish()
        assert self.clients[-1].end(signal.SIGTERM) == 0
        assert_counted_once(self.cluster.url, self.pushers)
        with em.connect(self.cluster.url, timeout_s=WAIT_S) as store:
            for client in self.clients:
                client.assert_counted(store)
        pushes = sum(pusher.pushes for pusher in self.pushers)
        self.note(f"{pushes} pushes and those of {len(self.clients)} clients count as they must")


def run(
    seed: int,
    count: int,
    folder: Path,
    say: Callable[[str], None],
    *,
    machine: bool = False,
) -> None:
    """Let `count` faults of a seed happen; fail with the seed and the log of faults."""
    kinds = (*KINDS, *MACHINE_KINDS) if machine else KINDS
    chaos = None
    with ExitStack() as stack:
        try:
            chaos = Chaos(stack, folder, say, machine=machine)
            for fault in schedule(seed, count, kinds):
                chaos.carry_out(fault)
            chaos.check()
        except BaseException as error:
            log = "\n".join(chaos.log if chaos else [])
            raise AssertionError(
                f"seed {seed} failed: {error}\n{log}\nlogs of the processes are in {folder}; the "
                f"same faults again: python -m tests.chaos --seed {seed} --faults {count}"
            ) from error
