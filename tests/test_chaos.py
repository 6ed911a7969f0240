"""Chaos: 100 schedules of kills over the real processes, in which every promise holds; and the parts it is made of."""

import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.chaos.recovery import recovery_seconds
from tests.chaos.run import strike
from tests.chaos.schedules import KILLS, Fault, draw
from tests.chaos.storm import Course, Struck
from tests.chaos.systems import End
from tests.chaos.wire import DELAY_SECONDS, Trouble, Wire, wires
from tests.waiting import readable

SCHEDULES = 100
KILL_ACTS = {act for act, _ in KILLS}


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_hundred_schedules_break_no_promise(open_dir: Path) -> None:
    figures = strike("cuggu", SCHEDULES, 1, open_dir / "chaos")
    assert figures["violations"] == []
    assert {figures[column] for column in ("lost", "stuck", "paid_twice", "credits_wrong", "untold")} == {0}
    assert figures["schedules"] == SCHEDULES
    kills = sum(count for kind, count in figures["faults"].items() if kind.split()[0] in KILL_ACTS)
    assert kills >= SCHEDULES
    assert figures["accepted"] == sum(figures["jobs"].values()) >= SCHEDULES
    assert figures["jobs"]["COMPLETED"] > SCHEDULES / 4, "a storm in which nothing succeeds proves little"
    # How quickly depends on what else this machine has to do; that each ended in time was judged above.
    assert figures["recovery"]["schedules"] > SCHEDULES / 2


def test_a_seed_means_the_same_schedule_and_kills_something() -> None:
    schedules = [draw(seed, 4) for seed in range(300)]
    assert schedules == [draw(seed, 4) for seed in range(300)]
    assert len(set(schedules)) == 300
    assert all(any(fault.act in KILL_ACTS for fault in schedule.faults) for schedule in schedules)
    assert all(fault.seconds > 4 for schedule in schedules for fault in schedule.faults if fault.act == "SIGSTOP")


# --- Recovery


def course(*struck: Struck, ended_at: float) -> Course:
    made = SimpleNamespace(struck=list(struck), ends={"job": End("COMPLETED", ended_at)}, given_up=False)
    return cast(Course, made)


def prediction(begin: int, end: int) -> dict[str, Any]:
    return {"created_at": f"1970-01-01T00:00:{begin:02}Z", "completed_at": f"1970-01-01T00:00:{end:02}Z"}


@pytest.mark.parametrize(
    ("struck", "predictions", "seconds"),
    [
        ([Struck(Fault("SIGKILL", "worker", 0), 10, 10)], [], 20),
        ([Struck(Fault("SIGKILL", "worker", 0), 10, 10), Struck(Fault("FLUSHALL", "redis", 0), 14, 14)], [], 16),
        # A stopped worker is to be recovered from at once, what is away once it is back.
        ([Struck(Fault("SIGSTOP", "worker", 0, 5), 10, 15)], [], 20),
        ([Struck(Fault("cut", "s3", 0, 5), 10, 15)], [], 15),
        # Two predictions at a time, one that had begun before, and one that nobody waited for.
        (
            [Struck(Fault("SIGKILL", "worker", 0), 10, 10)],
            [prediction(11, 14), prediction(12, 15), prediction(8, 11), prediction(28, 40)],
            20 - 5 - 2,
        ),
        ([Struck(Fault("SIGKILL", "worker", 0), 31, 31)], [], None),
    ],
)
def test_recovery_is_the_time_after_the_last_fault_without_the_providers_own(
    struck: list[Struck], predictions: list[dict[str, Any]], seconds: float | None
) -> None:
    assert recovery_seconds(course(*struck, ended_at=30), predictions) == seconds


# --- Wires


class Echo(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        with suppress(ConnectionError):
            for line in self.rfile:
                cast(EchoServer, self.server).heard.append(line)
                self.wfile.write(line.upper())


class EchoServer(socketserver.ThreadingTCPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Echo)
        self.heard: list[bytes] = []


class Caller:
    """A connection over the wire to a server that answers every line in capitals."""

    def __init__(self, wire: Wire) -> None:
        self._socket = socket.create_connection(("127.0.0.1", wire.port), timeout=10)

    def ask(self, line: bytes) -> None:
        self._socket.sendall(line)

    def hears(self, line: bytes) -> bool:
        return self._socket.makefile("rb").readline() == line

    def hears_nothing(self) -> bool:
        return not readable(self._socket, 0.2)

    def is_reset(self) -> bool:
        try:
            return self._socket.recv(1) == b""
        except ConnectionError:
            return True


@pytest.fixture
def echo() -> Iterator[tuple[Wire, EchoServer]]:
    with EchoServer() as server, wires("echo") as made:
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        serving.start()
        made["echo"].target = ("127.0.0.1", server.server_address[1])
        yield made["echo"], server
        server.shutdown()
        serving.join()


def works(wire: Wire) -> bool:
    caller = Caller(wire)
    caller.ask(b"hello\n")
    return caller.hears(b"HELLO\n")


def test_a_wire_that_is_cut_resets_all_until_it_is_mended(echo: tuple[Wire, EchoServer]) -> None:
    wire, _ = echo
    assert works(wire)
    before = Caller(wire)
    before.ask(b"one\n")
    assert before.hears(b"ONE\n")
    wire.begin("cut")
    wire.begin("cut")
    wire.end("cut")
    assert before.is_reset()
    assert Caller(wire).is_reset()
    wire.end("cut")
    assert works(wire)


def test_a_slow_wire_delays_both_ways(echo: tuple[Wire, EchoServer]) -> None:
    wire, _ = echo
    wire.begin("delay")
    began = time.monotonic()
    assert works(wire)
    assert time.monotonic() - began >= 2 * DELAY_SECONDS


@pytest.mark.parametrize(("trouble", "heard"), [("swallow", []), ("swallow answers", [b"one\n"])])
def test_a_wire_that_swallows_stays_open_and_silent(
    echo: tuple[Wire, EchoServer], trouble: Trouble, heard: list[bytes]
) -> None:
    wire, server = echo
    wire.begin(trouble)
    caller = Caller(wire)
    caller.ask(b"one\n")
    assert caller.hears_nothing()
    assert server.heard == heard
    wire.end(trouble)
    assert caller.is_reset()  # who lost bytes could not go on anyway
    assert works(wire)
