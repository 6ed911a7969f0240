"""Logs: one event per outcome, in the past tense, as text to read or as JSON to collect."""

import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any

import structlog

from shared.settings import Settings

# What must never stand in a log, as what may stand before it and the secret itself.
_SECRETS = re.compile(
    r"""(
        (?:X-Amz-[A-Za-z-]+|Signature|token|key|password|secret)=(?=[^&\s"'])  # in queries and connection strings
        | ["'](?:[\w-]*(?:token|_key|password|passwd|secret)|authorization)["']:\s*["']  # in printed dictionaries
        | ://[^\s/:@"']*:(?=[^\s/]+@)                                        # the password in an address
        | Bearer\s+ | \bwhsec_ | \br8_ | \bcst_
        | \beyJ(?=[\w-]+\.[\w-]+\.)                                         # a JWT that stands alone
    )
    (?:(?<=["'])[^"']+ | (?<=:)[^\s/]+(?=@) | [^&\s"']+)""",
    re.I | re.X,
)
_SECRET_NAME = re.compile(r"token|_key$|passw|secret|authorization", re.I)
_OF_THE_FORMATTER = ("_record", "_from_structlog")
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
        structlog.processors.format_exc_info,  # here, so that nothing is written that was not looked through
        _hide_secrets,
    ]
    render = (
        structlog.processors.JSONRenderer()
        if settings.log_format == "json"
        # The default formatter would print every local variable with a traceback: passwords, tokens, portraits.
        else structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
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
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.log_level)
    for name in _LIBRARIES:
        logging.getLogger(name).setLevel(logging.WARNING)


def _hide_secrets(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key, value in event.items():
        if key not in _OF_THE_FORMATTER:
            event[key] = _without_secrets(value)
    return event


def _without_secrets(value: Any) -> Any:
    """The same value, or its text with the secrets hidden."""
    match value:
        case None | bool() | int() | float():
            return value
        case str():
            return _SECRETS.sub(r"\1***", value)
        case Mapping():
            return {key: "***" if _SECRET_NAME.search(str(key)) else _without_secrets(value[key]) for key in value}
        case list() | tuple():
            return [_without_secrets(item) for item in value]
    text = repr(value)
    shown = _SECRETS.sub(r"\1***", text)
    return value if shown == text else shown
