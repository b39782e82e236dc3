"""The command line of the data: `check`, `clicks` and `synthesize`."""

from typing import Any

from finemesh_trainer.data.commands import check, clicks, synthesize


def add_parser(subparsers: Any) -> None:
    """Adds the three commands."""
    for command in (clicks, synthesize, check):
        command.add_parser(subparsers)
