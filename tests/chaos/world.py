"""Everything that chaos strikes, running: servers, vendors' doubles, the wires to them, and the system's processes."""

import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import httpx
import redis

from cli.embedded import EmbeddedPostgres, EmbeddedRedis
from cli.vendors import Vendors, doubled_vendors
from tests.chaos.couples import Door
from tests.chaos.schedules import MOODS, WIRES, WORKERS, Fault
from tests.chaos.systems import System
from tests.chaos.wire import TROUBLES, Wire, wires
from tests.stack import RunningStack

# Quicker than the vendor, and slow enough to be struck while it runs.
PREDICTION = ("--start-seconds", "0.2", "--predict-seconds", "2", "--predict-spread", "0.3",
              "--webhook-late-seconds", "8")  # fmt: skip


@dataclass
class World:
    """Use it from the main thread: it starts processes.

    Attributes:
        database_url: straight to PostgreSQL, past the wire. `redis_url` likewise.
    """

    system: System
    stack: RunningStack
    postgres: EmbeddedPostgres
    redis: EmbeddedRedis
    vendors: Vendors
    wires: dict[str, Wire]
    door: Door
    _moods: Counter[str] = field(default_factory=Counter)
    _kept_down: Counter[str] = field(default_factory=Counter)
    _stopped: Counter[str] = field(default_factory=Counter)

    @property
    def database_url(self) -> str:
        return self.postgres.url

    def tend(self) -> None:
        """What supervisors do; call it a few times a second."""
        for server in (self.postgres, self.redis):
            if not server.running and not self._kept_down[server.name]:
                server.start()
        self.stack.tend()

    def has(self, fault: Fault) -> bool:
        """Whether this system has what the fault is meant for at all."""
        return fault.target != "beat" or "beat" in self.system.processes

    def strike(self, fault: Fault, *, substitute: bool = True) -> bool:
        """False if what it is meant for is not running just now; `substitute`: neither is another of its kind."""
        match fault.act, fault.target:
            case (("SIGKILL" | "SIGTERM" | "SIGSTOP"), target) if target not in ("postgres", "redis"):
                return self._signal(signal.Signals[fault.act], target, substitute)
            case "SIGKILL", ("postgres" | "redis") as target:
                server = self.postgres if target == "postgres" else self.redis
                if not server.running:
                    return False
                self._kept_down[target] += 1
                server.kill()
            case "FLUSHALL", _:
                return self._flush()
            case "provider", mood:
                self._moods[mood] += 1
                self._turn_dials()
            case trouble, wire if trouble in TROUBLES:
                self.wires[wire].begin(trouble)
            case _:
                raise ValueError(f"there is no fault {fault.kind}")
        return True

    def lift(self, fault: Fault) -> None:
        """End a fault that lasts."""
        match fault.act, fault.target:
            case "SIGKILL", target:
                self._kept_down[target] -= 1
                self.tend()
            case "SIGSTOP", name:
                self._stopped[name] -= 1
                if not self._stopped[name]:
                    self.stack.send_signal(name, signal.SIGCONT)
            case "provider", mood:
                self._moods[mood] -= 1
                self._turn_dials()
            case trouble, wire if trouble in TROUBLES:
                self.wires[wire].end(trouble)

    def _signal(self, wanted: signal.Signals, target: str, substitute: bool) -> bool:
        if target == "every worker":
            return sum(self.stack.send_signal(name, wanted) for name in WORKERS) > 0
        # One worker is as good as the other, if it is the only one that is there.
        names = [target, *(name for name in WORKERS if name != target)] if target in WORKERS else [target]
        for name in names:
            if name != target and (wanted is signal.SIGSTOP or not substitute):
                return False  # `lift` wakes the one that was named
            if self.stack.send_signal(name, wanted):
                self._stopped[name] += wanted is signal.SIGSTOP
                return True
        return False

    def _flush(self) -> bool:
        if not self.redis.running:
            return False
        with redis.Redis.from_url(self.redis.url, socket_timeout=5) as client:
            client.flushall()
        return True

    def _turn_dials(self) -> None:
        dials: dict[str, dict[str, object]] = {"webhook_rates": {}, "outcome_rates": {}, "fault_rates": {}}
        for mood in self._moods:
            if self._moods[mood] > 0:
                part, operation, kind, rate = MOODS[mood]
                rates = dials[part].setdefault(operation, {}) if operation else dials[part]
                assert isinstance(rates, dict)
                rates[kind] = rate
        httpx.post(f"{self.vendors.replicate_url}/_dials", json=dials, trust_env=False).raise_for_status()


@contextmanager
def running_world(
    system: System,
    data_dir: Path,
    restart_seconds: Sequence[float],
    *,
    prediction: Sequence[str] = PREDICTION,
    durable: bool = False,
) -> Iterator[World]:
    """All of it, ready for work; ended afterwards. `data_dir` must be open to PostgreSQL's account under root.

    `restart_seconds` are the supervisor's pauses before it starts a killed process again.
    Unless `durable`, PostgreSQL runs without fsync and autovacuum: what a killed process has written the kernel keeps,
    and nobody pulls the plug here.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    with ExitStack() as running:
        made = running.enter_context(wires(*WIRES))
        public_url = f"http://{made['replicate'].address}"
        vendors = running.enter_context(
            doubled_vendors(data_dir, replicate_options=(*prediction, "--public-url", public_url))
        )
        postgres = running.enter_context(EmbeddedPostgres(data_dir, durable=durable))
        valkey = running.enter_context(EmbeddedRedis(data_dir, durable=False))
        addresses = {
            "postgres": postgres.url,
            "redis": valkey.url,
            "replicate": vendors.replicate_url,
            "s3": vendors.environment["S3_ENDPOINT_URL"],
            "azure": vendors.azure_url,
        }
        for name, url in addresses.items():
            parts = urlsplit(url)
            assert parts.hostname is not None
            assert parts.port is not None
            made[name].target = (parts.hostname, parts.port)
        system.prepare(postgres.url)
        environment = {
            **vendors.environment,
            **system.environment(),
            "DATABASE_URL": through(made["postgres"], postgres.url),
            "REDIS_URL": through(made["redis"], valkey.url),
            "REPLICATE_BASE_URL": public_url,
            "S3_ENDPOINT_URL": through(made["s3"], addresses["s3"]),
            "AZURE_FACE_ENDPOINT": through(made["azure"], vendors.azure_url),
        }
        stack = RunningStack(
            data_dir / "stack",
            environment,
            processes=system.processes,
            commands=system.commands,
            restart_seconds=restart_seconds,
        )
        running.callback(stack.end)
        stack.begin()
        yield World(system, stack, postgres, valkey, vendors, made, system.door(stack.api_url))


def through(wire: Wire, url: str) -> str:
    """The same address, by way of the wire."""
    parts = urlsplit(url)
    user = f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else ""
    return urlunsplit(parts._replace(netloc=f"{user}{wire.address}"))
