"""The command line: one subcommand per module.

Each module gives `add_parser(subparsers)`, which sets `run` on its parser, and `run(args) -> int`. Modules import
what is heavy inside of `run`, so that `--help` is quick.
"""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from finemesh_trainer.errors import TrainerError

COMMAND_MODULES = ("data.commands", "mining", "commands", "derived", "heads", "evaluation", "parity")
"""Where the subcommands are, in the order in which `--help` shows them."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code: 0, 64 for bad config or data, 1 for a failure."""
    parsed = build_parser().parse_args(arguments)
    try:
        return parsed.run(parsed)
    except TrainerError as error:
        print(error, file=sys.stderr)
        return error.exit_code


def build_parser() -> argparse.ArgumentParser:
    """The parser with all subcommands."""
    parser = argparse.ArgumentParser(prog="finemesh-trainer", description=sys.modules["finemesh_trainer"].__doc__)
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for name in COMMAND_MODULES:
        import_module(f"finemesh_trainer.{name}").add_parser(subparsers)
    return parser
