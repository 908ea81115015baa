"""The log records of runs: the events, their levels and their texts."""

from __future__ import annotations

import logging

from streamstores import logs

__all__ = ["log_run"]

_EVENTS = {
    "describe_error_failed": (logging.ERROR, "describe_error failed for stream %s"),
    "failed": (logging.ERROR, "the run of stream %s failed"),
    "lost": (logging.WARNING, "stream %s lost its producer"),
    "not_handed_over": (logging.WARNING, "stream %s was not handed over"),
    "revive_failed": (logging.ERROR, "revive failed for stream %s"),
    "source_failed": (logging.ERROR, "the source of stream %s failed"),
    "source_not_closed": (logging.WARNING, "the source of stream %s did not close"),
    "source_stuck": (logging.WARNING, "the source of stream %s is stuck: left behind"),
    "takeover": (logging.INFO, "stream %s was in need of a producer"),
}

_log = logging.getLogger("streamstores.runs")


def log_run(
    event: str,
    stream_id: str,
    *,
    because: str | Exception | None = None,
    exc_info: BaseException | None = None,
) -> None:
    """Log the event `run.<event>` of a stream, with its reason, or with a traceback."""
    level, text = _EVENTS[event]
    arguments = [logs.label(stream_id)]
    if because is not None:
        text += ": %s"
        arguments.append(because if isinstance(because, str) else logs.reason(because))
    extra = logs.event(f"run.{event}", stream_id)
    _log.log(level, text, *arguments, exc_info=exc_info, extra=extra)
