"""The command `doctor`: what is wrong with a store, or risky."""

from streamstores.cli.doctor.command import add_doctor

__all__ = ["add_doctor"]
