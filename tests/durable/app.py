"""The application of the tests' server processes: `uvicorn tests.durable.app:app`."""

from __future__ import annotations

import os

from streamstores import open_store
from streamstores.http import create_durable_streams_app

app = create_durable_streams_app(open_store(os.environ["STORE_URL"]))
