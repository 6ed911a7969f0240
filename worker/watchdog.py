"""Notices when this worker is there and consumes nothing, by what it does and not by what Celery says of itself.

After a lost connection a worker may be connected again, answer pings, and take no message any more (reported against
Celery on Redis for years). So heartbeats go through Redis to a queue that only this process consumes, and the queues
that it shares with others are looked at.
"""

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from uuid import uuid4

import redis
import structlog
from kombu import Exchange, Queue
from kombu.exceptions import OperationalError

from shared.queue import PUBLISHER_TIMEOUT_SECONDS, make_celery
from shared.settings import Settings

HEARTBEAT = "heartbeat"
LOOKS, HEARTBEATS = 20, 5  # in each `worker_stall_seconds`
# What is left of a dead worker's heartbeats; kombu forgets the queue's binding as well, an hour later.
HEARTBEAT_QUEUE_SECONDS = 60.0
# With every thread in a step and none coming to its end. All calls in a step are bounded, most by half a lease.
LONGEST_STEP_LEASES = 4

log = structlog.get_logger()


def heartbeat_queue(node: str) -> Queue:
    """A queue that no other process consumes, whatever the nodes are called."""
    name = f"{HEARTBEAT}.{node}.{uuid4().hex[:8]}"
    return Queue(name, Exchange(name), name, expires=HEARTBEAT_QUEUE_SECONDS)


class Consumption:
    """What this process takes from its queues, and since when it should have taken more. Thread-safe.

    Neither a Redis that is away nor a worker whose threads are all busy is a stall: both set the clocks anew.
    """

    def __init__(
        self, queues: Iterable[str], threads: int, settings: Settings, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`queues` names those that are shared with other workers; `threads` steps may run at once."""
        self._clock = clock
        self._stall_seconds = settings.worker_stall_seconds
        self._longest_step_seconds = LONGEST_STEP_LEASES * settings.lease_seconds
        self._threads = threads
        self._lock = threading.Lock()
        self._steps = 0
        self._seen = False  # anything taken since Redis was last away
        now = clock()
        self._looked_at = self._turned_at = self._quiet_since = now
        self._left_since = dict.fromkeys(queues, now)

    def taken(self, queue: str) -> None:
        """A message was taken from the queue."""
        with self._lock:
            self._seen = True
            self._quiet_since = self._clock()
            if queue in self._left_since:
                self._left_since[queue] = self._quiet_since

    def step_began(self) -> None:
        self._turn(1)

    def step_ended(self) -> None:
        self._turn(-1)

    def stall(self, lengths: Mapping[str, int] | None) -> str | None:
        """What was seen, if it is a stall. `lengths` says how many messages wait in each shared queue; None: no Redis.

        To be asked all the time: after a pause, in which the whole process may have been stopped, it looks afresh.
        """
        with self._lock:
            now = self._clock()
            stood_still = now - self._looked_at > self._stall_seconds / 2
            self._looked_at = now
            if stood_still:
                self._turned_at = now
            if self._busy and now - self._turned_at >= self._longest_step_seconds:
                return f"all {self._threads} threads are in steps that do not end"
            if lengths is None or stood_still:
                self._seen = False
            if lengths is None or stood_still or self._busy:
                self._quiet_since = now
                self._left_since = dict.fromkeys(self._left_since, now)
                return None
            for queue, length in lengths.items():
                if length == 0:
                    self._left_since[queue] = now
                elif now - self._left_since[queue] >= self._stall_seconds:
                    return f"took none of the {length} messages in the queue {queue}"
            if now - self._quiet_since >= self._stall_seconds:
                return "took nothing, not even its own heartbeats"
            return None

    @property
    def alive(self) -> bool:
        """Whether the worker was seen to consume, lately enough."""
        with self._lock:
            now = self._clock()
            lately = max(now - self._looked_at, now - self._quiet_since) < self._stall_seconds
            return lately and (self._seen or self._busy)

    @property
    def _busy(self) -> bool:
        return self._steps >= self._threads

    def _turn(self, change: int) -> None:
        with self._lock:
            self._steps += change
            self._turned_at = self._clock()


class Watchdog:
    """A thread that sends the heartbeats, looks at the queues, and calls `on_stall` once with what it saw."""

    def __init__(
        self,
        settings: Settings,
        *,
        queues: Iterable[str],
        heartbeats: Queue,
        threads: int,
        on_stall: Callable[[str], None],
    ) -> None:
        self._queues = tuple(queues)
        self._heartbeats = heartbeats
        self._on_stall = on_stall
        self._stall_seconds = settings.worker_stall_seconds
        self._next_heartbeat_at = 0.0
        self._stopped = False
        # As another process would send: not by the connections that are being watched.
        self._sender = make_celery(settings)
        self._sender.conf.update(task_queues=[heartbeats])
        self._redis = redis.Redis.from_url(
            settings.redis_url,
            socket_timeout=PUBLISHER_TIMEOUT_SECONDS,
            socket_connect_timeout=PUBLISHER_TIMEOUT_SECONDS,
        )
        self.consumption = Consumption(self._queues, threads, settings)

    def start(self) -> None:
        threading.Thread(target=self._run, name="watchdog", daemon=True).start()

    def stop(self) -> None:
        """A worker that shuts down consumes nothing, and is right. Takes no lock: a signal handler calls it."""
        self._stopped = True

    @property
    def consumes(self) -> bool:
        """Whether this worker takes work, as far as was seen."""
        return not self._stopped and self.consumption.alive

    def _run(self) -> None:
        while not self._stopped:
            seen = self.consumption.stall(self._look())
            if seen and not self._stopped:
                self._on_stall(seen)
                return
            time.sleep(self._stall_seconds / LOOKS)

    def _look(self) -> dict[str, int] | None:
        """How many messages wait in each shared queue; None when Redis gives none or takes none."""
        try:
            with self._redis.pipeline(transaction=False) as pipe:
                for queue in (*self._queues, self._heartbeats.name):
                    pipe.llen(queue)
                # kombu does this when it sends, and not when it puts back what a canceled consumer had in its hands.
                pipe.pexpire(self._heartbeats.name, int(HEARTBEAT_QUEUE_SECONDS * 1000))
                *lengths, heartbeats, _ = pipe.execute()
            if not heartbeats and time.monotonic() >= self._next_heartbeat_at:
                self._sender.send_task(HEARTBEAT, queue=self._heartbeats.name, expires=self._stall_seconds)
                self._next_heartbeat_at = time.monotonic() + self._stall_seconds / HEARTBEATS
        except (redis.RedisError, OperationalError, OSError) as error:
            log.debug("redis.unreachable", error=str(error))
            return None
        return dict(zip(self._queues, lengths, strict=True))
