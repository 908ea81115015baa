"""Runs: sources of bytes that become streams, and that end properly however they end.

A *run* drives one source into one stream, as its producer, in this process. `Runs` starts
runs, stops and continues them from any process, takes over the streams of processes that
died, and hands its own streams over when it closes. It knows only the store's contract.

The attribute `owner` of a stream names its producer; see `streamstores.runs.ownership`.
"""

from streamstores.runs.follower import RunFollower
from streamstores.runs.iterator_thread import IteratorThread
from streamstores.runs.ownership import OWNER
from streamstores.runs.runs import Runs, TooManyRuns
from streamstores.runs.source import Revive, Source, close_source

__all__ = [
    "OWNER",
    "IteratorThread",
    "Revive",
    "RunFollower",
    "Runs",
    "Source",
    "TooManyRuns",
    "close_source",
]
