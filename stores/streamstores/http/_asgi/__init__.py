"""The parts that all handlers share. Nothing here knows any of the handlers.

This package is imported before any module of a handler, so it says which extra is missing.
"""

from __future__ import annotations

try:
    import starlette as _starlette  # noqa: F401  # pyright: ignore[reportUnusedImport]
except ImportError as exc:
    raise ImportError(
        'streamstores.http needs starlette: pip install "streamstores[http]"', name=exc.name
    ) from exc
