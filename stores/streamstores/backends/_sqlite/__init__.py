"""The parts of the SQLite store that run in its threads."""
