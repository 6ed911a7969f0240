"""`python -m tests.chaos`; see run.py."""

from tests.chaos.run import main

main()
