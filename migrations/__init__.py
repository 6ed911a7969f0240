"""The database's history: expand first, contract in a later release, so that old workers meet new rows unharmed."""
