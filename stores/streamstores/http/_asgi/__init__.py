"""The parts that all handlers share. Nothing here knows any of the handlers."""
