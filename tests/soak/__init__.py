"""A soak: the real system as real processes under a steady load for a long time, with faults in between.

    python -m tests.soak --minutes 30

Chaos (`tests/chaos/`) lends the world, the faults, the couples and the judge. `load.py` keeps the pace, `weather.py`
says when what strikes, `samples.py` looks at memory and tables, `figures.py` judges what was seen, `report.py` tells.
"""
