"""The Durable Streams protocol: the public suite, and what it does not see."""
