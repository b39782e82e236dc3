"""`finemesh-trainer interpolate` and `merge`: a run to a run nearer to its base, or to a base for other runs."""

import argparse
from pathlib import Path
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Adds `interpolate` and `merge` to the command line."""
    add_interpolate(subparsers.add_parser("interpolate", help="take a run's weights part of the way from the base"))
    add_merge(subparsers.add_parser("merge", help="write a run's weights as a base that other runs start from"))


def add_interpolate(parser: argparse.ArgumentParser) -> None:
    """Arguments of `interpolate`."""
    add_run(parser)
    parser.add_argument(
        "--strength", type=float, required=True, metavar="S", help="above 0, at most 1: W = W_base + S (W_run - W_base)"
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="the new run's folder, which is made")
    parser.set_defaults(run=run_interpolate)


def add_merge(parser: argparse.ArgumentParser) -> None:
    """Arguments of `merge`."""
    add_run(parser)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="for base.folder, which is made")
    parser.set_defaults(run=run_merge)


def add_run(parser: argparse.ArgumentParser) -> None:
    """The run that is read."""
    parser.add_argument("--run", type=Path, required=True, metavar="DIR", help="the run's output folder", dest="folder")


def run_interpolate(args: argparse.Namespace) -> int:
    """Writes a run's folder that can be exported, measured and merged like any other."""
    from finemesh_trainer.derived.interpolated import interpolate

    interpolate(args.folder, args.output, args.strength)
    print(f"{args.output}: {args.folder} at strength {args.strength:g}")
    return 0


def run_merge(args: argparse.Namespace) -> int:
    """Writes a folder as a pulled bundle has it: weights and tokenizer."""
    from finemesh_trainer.derived.merged import merge

    merge(args.folder, args.output)
    print(f"{args.output}: the BERT of {args.folder}, without its heads")
    return 0
