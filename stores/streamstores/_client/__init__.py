"""The parts of `streamstores.client`: requests, the connection, answers, events, retries."""
