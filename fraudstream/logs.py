"""Logs: one JSON object a line on stderr, from us and from the client libraries alike."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping

import structlog

#: Without the frames' variables, which may hold records.
_tracebacks = structlog.processors.ExceptionRenderer(
    structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
)


def configure_logs(level: str = "INFO", **context: object) -> None:
    """Set up logging for this process.

    Parameters
    ----------
    level
        DEBUG, INFO, WARNING or ERROR.
    context
        Goes into every line, e.g. ``slot=1``.
    """
    structlog.configure(
        processors=[
            _Context(context),
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _tracebacks,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(handlers=[_ToStructlog()], level=logging.WARNING, force=True)


class _Context:
    """Puts the same fields into every line, whichever thread writes it."""

    def __init__(self, fields: Mapping[str, object]) -> None:
        self._fields = fields

    def __call__(
        self, _logger: object, _method: str, event: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        return {**self._fields, **event}


class _ToStructlog(logging.Handler):
    """Hands the client libraries' own lines on."""

    def emit(self, record: logging.LogRecord) -> None:
        log = structlog.get_logger(record.name)
        log.log(record.levelno, "library", text=record.getMessage())
