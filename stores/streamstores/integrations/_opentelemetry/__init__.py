"""The parts of `streamstores.integrations.opentelemetry`."""
