"""A submission as the first plan orders its steps, one after another, the way one would write it down."""
