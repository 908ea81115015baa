"""The command line: `streamstores check URL`, `streamstores ls` and others."""

from streamstores.cli.app import build_app, main

__all__ = ["build_app", "main"]
