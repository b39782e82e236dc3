"""Arguments that several commands take."""

import argparse
from pathlib import Path


def add_config(parser: argparse.ArgumentParser, what: str) -> None:
    """A TOML file, and values that stand in place of its own."""
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help=what)
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a value in place of the file's, as in TOML"
    )
