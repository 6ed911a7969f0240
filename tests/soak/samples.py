"""What the system weighs while it runs: the memory of its processes, its tables, and Redis."""

import time
from collections import defaultdict
from dataclasses import dataclass, field

import psutil
import psycopg
import redis

from tests.chaos.world import World

TABLES = """
SELECT relname, pg_total_relation_size(oid) FROM pg_class
WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace
"""


@dataclass
class Samples:
    """Each value with its moment, in seconds from the soak's beginning.

    Attributes:
        memory: private bytes by process name and process id: one that is started again begins a life of its own. Not
            PSS, in which every process seems to grow by 2 % when a fault ends one that it shares libraries with (seen).
        tables: bytes by name, indexes and dead rows included.
        redis: bytes in use.
    """

    began: float = field(default_factory=time.monotonic)
    memory: dict[tuple[str, int], list[tuple[float, int]]] = field(default_factory=lambda: defaultdict(list))
    tables: dict[str, list[tuple[float, int]]] = field(default_factory=lambda: defaultdict(list))
    redis: list[tuple[float, int]] = field(default_factory=list)

    def take(self, world: World) -> None:
        """What is away just now is left out."""
        at = time.monotonic() - self.began
        for name in world.system.processes:
            pid = world.stack.pid(name)
            if size := _private_bytes(pid):
                self.memory[name, pid].append((at, size))
        try:
            with psycopg.connect(world.database_url, connect_timeout=2, options="-c statement_timeout=2000") as server:
                for name, size in server.execute(TABLES):
                    self.tables[name].append((at, size))
            with redis.Redis.from_url(world.redis.url, socket_timeout=2) as client:
                self.redis.append((at, int(client.info("memory")["used_memory"])))
        except (psycopg.Error, redis.RedisError):
            return


def _private_bytes(pid: int) -> int:
    """Of the process and its children: what would be free without them."""
    try:
        process = psutil.Process(pid)
        return sum(one.memory_full_info().uss for one in (process, *process.children(recursive=True)))
    except psutil.NoSuchProcess:
        return 0
