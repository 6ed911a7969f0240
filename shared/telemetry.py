"""Logs: one event per outcome, in the past tense, as text to read or as JSON to collect."""

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

from shared.settings import Settings

# What must never stand in a log: signatures and keys in addresses, tokens.
_SECRETS = re.compile(
    r"((?:X-Amz-[A-Za-z-]+|Signature|token|key)=)[^&\s\"']+|(Bearer\s+|\bwhsec_|\br8_)[\w+/=.-]+", re.I
)
# Libraries that tell every step; ours say what came of it.
_LIBRARIES = (
    "celery.app.trace",
    "celery.beat",
    "celery.worker.strategy",
    "httpx",
    "httpcore",
    "botocore",
    "boto3",
    "azure",
    "urllib3",
    "kombu",
    "PIL",
    "alembic",
    "asyncio",
)


def configure_logging(settings: Settings) -> None:
    """Send our own and the libraries' records through one pipeline to standard error."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _hide_secrets,
    ]
    render: list[Any] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
        if settings.log_format == "json"
        else [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(settings.log_level)),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.log_level)
    for name in _LIBRARIES:
        logging.getLogger(name).setLevel(logging.WARNING)


def _hide_secrets(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key, value in event.items():
        if isinstance(value, str):
            event[key] = _SECRETS.sub(lambda found: f"{found[1] or found[2]}***", value)
    return event
