"""How much work the cases do, at three scales."""

from __future__ import annotations

from typing import NamedTuple


class Sizes(NamedTuple):
    appends: int
    """Appended one after another; times `APPEND_FACTOR` of the backend."""
    written: int
    """Records that a writer writes at full speed; times the same factor."""
    streams_at_once: int
    seconds: float
    """How long streams are produced at `rate` and delivered."""
    rate: int
    """Records a second of each stream."""
    streams: int
    """The many streams of a delivery case."""
    replay_records: int
    replay_bytes: int
    followers: int
    many_followers: int
    idle: int
    """Idle streams, with a follower each, whose memory is measured."""
    idle_seconds: float
    few_streams: int
    grown_streams: int
    grown_bytes: int
    few_clients: int
    many_clients: int
    crowd_clients: int
    crowd_rate: int
    """As `rate`, for so many clients that they are what a machine can serve at once."""
    posts: int
    chats: int
    """Live at once, each with a client of its own, at `rate` tokens a second."""
    slow_chats: int
    """At 2 tokens a second."""
    fast_chats: int
    """At 200 tokens a second."""
    most_chats: int
    """Where the search for the most chats that a process serves in time gives up."""
    crowd_chats: int
    """Begun within half a second, or live and silent."""
    open_chats: int
    """Live and silent, as many as a process may well have."""
    held_seconds: float
    """How long the CPU of silent chats is measured."""


FULL = Sizes(
    appends=2_000,
    written=4_000,
    streams_at_once=64,
    seconds=4.0,
    rate=50,
    streams=100,
    replay_records=20_000,
    replay_bytes=100 * 1_048_576,
    followers=100,
    many_followers=1_000,
    idle=1_000,
    idle_seconds=4.0,
    few_streams=10,
    grown_streams=10_000,
    grown_bytes=100 * 1_048_576,
    few_clients=1,
    many_clients=200,
    crowd_clients=1_000,
    crowd_rate=10,
    posts=8_000,
    chats=100,
    slow_chats=1_000,
    fast_chats=25,
    most_chats=1_600,
    crowd_chats=1_000,
    open_chats=10_000,
    held_seconds=30.0,
)
QUICK = FULL._replace(
    appends=100,
    written=300,
    seconds=0.3,
    replay_records=4_000,
    replay_bytes=8 * 1_048_576,
    streams=30,
    followers=30,
    many_followers=100,
    idle=30,
    idle_seconds=0.5,
    grown_streams=500,
    grown_bytes=8 * 1_048_576,
    many_clients=50,
    crowd_clients=100,
    posts=600,
    chats=20,
    slow_chats=100,
    fast_chats=5,
    most_chats=50,
    crowd_chats=50,
    open_chats=200,
    held_seconds=0.5,
)
TINY = Sizes(
    appends=2,
    written=4,
    streams_at_once=4,
    seconds=0.04,
    rate=50,
    streams=2,
    replay_records=20,
    replay_bytes=200_000,
    followers=2,
    many_followers=3,
    idle=3,
    idle_seconds=0.02,
    few_streams=2,
    grown_streams=4,
    grown_bytes=100_000,
    few_clients=1,
    many_clients=2,
    crowd_clients=3,
    crowd_rate=50,
    posts=40,
    chats=2,
    slow_chats=2,
    fast_chats=2,
    most_chats=25,
    crowd_chats=2,
    open_chats=4,
    held_seconds=0.05,
)

# So that an append case takes about as long on every backend.
APPEND_FACTOR = {"memory": 50, "sqlite": 2, "redis": 3, "postgres": 1, "s3": 0.05}
