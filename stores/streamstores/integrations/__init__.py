"""Adapters to other frameworks and services, each in a module of its own."""
