"""The parts of the SQLite store: its file, its threads, its transactions, and its watcher."""
