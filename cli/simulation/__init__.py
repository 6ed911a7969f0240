"""Random schedules of faults against the real use cases, under a virtual clock; a seed replays its schedule."""
