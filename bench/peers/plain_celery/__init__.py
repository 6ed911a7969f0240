"""The same job as a plain Celery + Redis program, to compare with."""
