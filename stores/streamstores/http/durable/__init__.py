"""The Durable Streams protocol over any store: `create_durable_streams_app`.

`docs/durable-streams.md` says how to use it, and `docs/decisions/durable-streams.md` why it
stores things the way it does. The modules, from the request to the store:

- `handler.py`: the methods of the protocol, and their permissions;
- `request_headers.py`: paths, headers and queries, and the refusals of bad ones;
- `responses.py`: the headers that all responses have;
- `offsets.py`: offsets and cursors as clients see them;
- `content.py`: content types, JSON mode, and the bodies of responses;
- `attributes.py`: what a stream keeps beside its bytes;
- `expiry.py`: when streams expire, and reads that postpone it;
- `drafts.py`: what an append may do, without I/O;
- `appender.py`, `creator.py`, `forks.py`, `reader.py`, `live_reader.py`: one operation each.
"""

from __future__ import annotations

from streamstores.http.durable.handler import create_durable_streams_app

__all__ = ["create_durable_streams_app"]
