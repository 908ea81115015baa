"""Our S3 store on a client that counts."""

from __future__ import annotations

from benchmarks.subjects.counting_s3 import connect
from benchmarks.subjects.ours import Ours
from streamstores.backends.s3 import S3StreamStore


class OursInS3(Ours):
    async def open(self) -> None:
        url, self._client, self.requests = connect(self.url)
        self.store = store = S3StreamStore(url, client=self._client)
        await store.__aenter__()

    async def aclose(self) -> None:
        await super().aclose()
        self._client.close()
