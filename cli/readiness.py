"""How to know that a process does its work, and not merely exists."""

import httpx
from celery import Celery
from celery.utils.nodenames import gethostname
from kombu.exceptions import OperationalError


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2, trust_env=False).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


class WorkerPing:
    """Asks one worker over the broker. Celery serves such questions in the loop that also takes tasks from the
    queues, and only once that loop runs: an answer means that the worker consumes.
    """

    def __init__(self, redis_url: str) -> None:
        self._app = Celery("cuggu-readiness", broker=redis_url, set_as_current=False)
        self._app.conf.broker_transport_options = {"socket_timeout": 2, "socket_connect_timeout": 1}

    def consumes(self, name: str, timeout_seconds: float = 0.3) -> bool:
        """Whether the worker whose node is `name@host`, on this machine, answers within the time."""
        node = f"{name}@{gethostname()}"
        try:
            replies = self._app.control.ping(destination=[node], timeout=timeout_seconds)
        except OperationalError:
            return False
        return any(reply.get(node, {}).get("ok") == "pong" for reply in replies or ())

    def close(self) -> None:
        self._app.close()
