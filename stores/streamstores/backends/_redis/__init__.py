"""The parts of the Redis store: its scripts, its lines to the servers, its notices."""
