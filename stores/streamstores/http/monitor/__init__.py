"""A page that shows operators which streams live in a store, and how they grow."""

from __future__ import annotations

from streamstores.http.monitor.monitor import create_monitor, only_loopback

__all__ = ["create_monitor", "only_loopback"]
