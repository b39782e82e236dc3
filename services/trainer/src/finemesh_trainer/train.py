"""`train encoder | cross-encoder`: a run from a config file, resumed where it was cut off."""

import argparse
from pathlib import Path


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Adds `train`."""
    parser = subparsers.add_parser("train", help="train a model, or go on where a run was cut off")
    parser.add_argument("model", choices=("encoder", "cross-encoder"))
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="the run's TOML file")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a value in place of the file's, as in TOML"
    )
    parser.set_defaults(run=run)
