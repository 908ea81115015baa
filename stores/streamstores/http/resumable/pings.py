"""Pings for the frameworks that send the bodies of a stream themselves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

__all__ = ["with_pings"]

_LONGEST_SECONDS = 86_400.0  # a longer timer may overflow in an event loop


async def with_pings(
    bodies: AsyncGenerator[bytes, None], ping: bytes, seconds: float
) -> AsyncGenerator[bytes, None]:
    """The bodies, with a ping after each `seconds` of silence; none if that is over a day.

    A server that has nothing to send does not learn that its client has left. Closes `bodies`.
    """
    timeout = seconds if seconds <= _LONGEST_SECONDS else None
    step: asyncio.Future[bytes] | None = None
    try:
        while True:
            # A task of its own, because a timeout around the step would end the generator.
            step = asyncio.ensure_future(anext(bodies))
            while not (await asyncio.wait([step], timeout=timeout))[0]:
                yield ping
            try:
                body = step.result()
            except StopAsyncIteration:
                return
            yield body
    finally:
        if step is not None:
            step.cancel()
            # Its error is read even if the client has left before it.
            await asyncio.gather(step, return_exceptions=True)
        await bodies.aclose()
