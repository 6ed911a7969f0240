"""The least that can answer a poll: Starlette and psycopg, one row by its key, nobody asked who they are."""
