"""A page that shows operators the streams of a store, and how they grow."""

from __future__ import annotations

from streamstores.http.monitor.loopback import only_loopback
from streamstores.http.monitor.monitor import create_monitor

__all__ = ["create_monitor", "only_loopback"]
