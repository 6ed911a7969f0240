"""Everything that anybody sends to a Redis database while a test looks, messages of Celery decoded."""

import base64
import binascii
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import redis

_BASE64 = re.compile(rb"[A-Za-z0-9+/]{16,}={0,2}")


@dataclass
class Watched:
    commands: list[bytes] = field(default_factory=list)

    @property
    def text(self) -> bytes:
        """The commands, and whatever in them is base64, as kombu's message bodies are, in the clear."""
        said = b"\n".join(self.commands)
        return said + b"\n".join(_decoded(found) for found in _BASE64.findall(said))


@contextmanager
def watched_redis(redis_url: str) -> Iterator[Watched]:
    """All commands to the database of this address, by MONITOR, which tells of those of scripts too."""
    database = urlsplit(redis_url).path.strip("/").encode()
    watched = Watched()
    client = redis.Redis.from_url(redis_url, socket_timeout=None)
    connection = client.connection_pool.get_connection()
    connection.send_command("MONITOR")
    assert connection.read_response() == b"OK"

    def listen() -> None:
        try:
            while True:
                line = connection.read_response()
                if re.match(rb"[\d.]+ \[%s " % database, line):
                    watched.commands.append(line)
        except (redis.RedisError, OSError, ValueError):  # it was closed
            return

    listening = threading.Thread(target=listen, daemon=True)
    listening.start()
    try:
        yield watched
    finally:
        connection._sock.shutdown(2)
        listening.join(10)
        client.close()


def _decoded(token: bytes) -> bytes:
    try:
        return base64.b64decode(token + b"=" * (-len(token) % 4))
    except (binascii.Error, ValueError):
        return b""
