"""`train` and `export`: what they take, and how a run begins."""

import argparse
from pathlib import Path

from finemesh_trainer.arguments import add_config


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Adds `train` and `export`."""
    add_train(subparsers.add_parser("train", help="train a model, or go on where a run was cut off"))
    add_export(subparsers.add_parser("export", help="write a run's weights as a model bundle"))


def add_train(parser: argparse.ArgumentParser) -> None:
    """Arguments of `train`."""
    parser.add_argument("model", choices=("encoder", "cross-encoder"))
    add_config(parser, "the run's TOML file")
    parser.set_defaults(run=run_train)


def add_export(parser: argparse.ArgumentParser) -> None:
    """Arguments of `export`."""
    parser.add_argument("--run", type=Path, required=True, metavar="DIR", help="the run's output folder", dest="folder")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="the bundle's folder, which is made")
    parser.add_argument(
        "--int8",
        nargs="?",
        const="per_token",
        choices=("per_token", "blocks"),
        help="int8 matrices in place of f32 ones: a scale for each token (the default), or for every 64 values",
    )
    parser.add_argument(
        "--base-apart", action="store_true", help="refer to the base's model.safetensors for what it has already"
    )
    parser.add_argument(
        "--heads",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="of training queries (the command heads): an int8 cross-encoder keeps their order",
    )
    parser.set_defaults(run=run_export)


def run_train(args: argparse.Namespace) -> int:
    """Trains; 0 when the run is finished, 1 when it was interrupted."""
    from finemesh_trainer.runs import read_run, start

    run = read_run(args.model, args.config, args.set)
    outcome = start(run)
    print(f"{run.name}: step {outcome.step} of {run.training.steps}, in {run.output}")
    return 0 if outcome.finished else 1


def run_export(args: argparse.Namespace) -> int:
    """Writes the bundle and says how far it is from PyTorch."""
    from finemesh_trainer.export import export
    from finemesh_trainer.models.int8 import Precision

    int8 = Precision(args.int8) if args.int8 else None
    exported = export(args.folder, args.output, int8=int8, base_apart=args.base_apart, heads=args.heads)
    print(f"{args.output}: differs from PyTorch by {exported.difference:.2e} at most; tolerance {exported.tolerance:g}")
    return 0
