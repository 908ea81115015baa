"""The parts of the PostgreSQL store: statements, rows, connections, notices, sweeping."""
