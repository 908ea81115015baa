"""The Durable Streams protocol: its public suite, and tests of what that leaves out."""
