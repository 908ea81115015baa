"""The Durable Streams protocol over any store: `create_durable_streams_app`.

`docs/durable-streams.md` says how to use it, `docs/decisions/durable-streams.md` why it keeps
things as it does. To change something, look into

- `app.py`: the requests and who may do what;
- `asking.py`: the headers and queries, and what is wrong with them;
- `offsets.py`: offsets and cursors as clients see them;
- `content.py`: content types, JSON mode, and the bodies of answers;
- `attributes.py`: what a stream keeps beside its bytes;
- `expiring.py`: when streams end, and reads that put it off;
- `rules.py`: what an append may do, without I/O;
- `appending.py`, `creating.py`, `forks.py`, `reading.py`, `live.py`: one operation each.
"""

from __future__ import annotations

from streamstores.http.durable.handler import create_durable_streams_app

__all__ = ["create_durable_streams_app"]
