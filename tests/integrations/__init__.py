"""Adapters, each with the framework that it is for."""
