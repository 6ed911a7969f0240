"""`python -m tests.soak`; see run.py."""

from tests.soak.run import main

main()
