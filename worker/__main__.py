"""`python -m worker`: makes photos, with threads that wait little; one process serves a thousand jobs at once.

`celery -A worker.main worker` would run the same, with 24 MB more: Celery's command line loads Flower and a shell.
"""

import shared.lean_start  # noqa: F401, I001 - first

import argparse
import logging
import sys

from celery.utils.nodenames import default_nodename, host_format

from shared.heap import share_heaps
from shared.settings import settings_or_exit

NAME = "worker@%h"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m worker", description="Makes the photos of accepted jobs.")
    parser.add_argument(
        "--name", default=NAME, help="tells workers of one machine apart; %%h is the machine (%(default)s)"
    )
    name = parser.parse_args().name
    share_heaps()
    settings_or_exit("worker")
    from worker.main import app  # noqa: PLC0415 - reads the settings

    worker = app.Worker(
        hostname=host_format(default_nodename(name)),
        loglevel=logging.WARNING,  # of what Celery prints; LOG_LEVEL is that of the log
        quiet=True,
        # Workers know each other by the database alone.
        without_gossip=True,
        without_mingle=True,
    )
    worker.start()
    sys.exit(worker.exitcode)


if __name__ == "__main__":
    main()
