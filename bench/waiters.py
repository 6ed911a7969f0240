"""P2: what a client that waits for news costs, and how soon it has them, beside one that asks every two seconds."""

import resource

from bench.harness import Line, Measured, Must
from bench.waiting import POLL_EVERY_SECONDS, figures_of
from bench.world import World

CLIENTS, QUICK_CLIENTS = 5_000, 300
IDLE_SECONDS, QUICK_IDLE_SECONDS = 30.0, 8.0
CHANGES, QUICK_CHANGES = 400, 40


def measure(world: World) -> Measured:
    """Nothing but pings happens while processor time is read, and nothing changes for those who poll."""
    _, descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))
    if world.quick:
        figures = figures_of(QUICK_CLIENTS, QUICK_IDLE_SECONDS, QUICK_CHANGES)
    else:
        figures = figures_of(CLIENTS, IDLE_SECONDS, CHANGES)
    # Milliseconds a second for one more client: less what the process needs by itself.
    waiting = 10 * (figures["idle_cpu_percent"] - figures["alone_cpu_percent"]) / figures["clients"]
    # The must holds for the cheapest polls that there are.
    polling, paced = (figures[f"{what}_cpu_ms"] / POLL_EVERY_SECONDS for what in ("poll", "paced"))
    return Measured(
        "Processor time of a client that waits",
        [
            Line("ratio", "processor of a client that waits, beside polls every 2 s", polling / waiting,
                 Must(">=", 50), f"{1000 * waiting:.2f} µs/s", f"{1000 * polling:.0f} µs/s"),
            Line("ratio_paced", "the same, if each polls at a moment of its own", paced / waiting, None,
                 f"{1000 * waiting:.2f} µs/s", f"{1000 * paced:.0f} µs/s"),
            Line("kb_each", "memory of one more client that waits, kB", figures["kb_each"], Must("<=", 40),
                 f"{figures['kb_each']:.0f} kB"),
            Line("p95_ms", "from commit to client, p95, ms", figures["steady_p95_ms"], Must("<=", 50),
                 f"{figures['steady_p95_ms']:.0f} ms", "1,900 ms"),
            Line("lost", "connections lost", figures["lost"], Must("<=", 0), f"{figures['lost']:.0f}"),
        ],
        raw=figures,
        bars={"ours, waiting": 1000 * waiting, "a poll every 2 s": 1000 * polling},
        unit="microseconds of processor time a second and client",
    )  # fmt: skip
