"""The parts of `StreamWriter`."""
