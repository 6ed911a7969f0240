"""Chaos: the real system as real processes, struck by random faults, and an independent checker afterwards.

    python -m tests.chaos --schedules 100 --seed 1

`schedules.py` says what a seed means, `storm.py` lets it happen, `checker.py` judges, `report.py` tells.
"""
