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


def run(args: argparse.Namespace) -> int:
    """Trains; 0 when the run is finished, 1 when it was interrupted."""
    from finemesh_trainer.config import CrossEncoderRun, read_config
    from finemesh_trainer.data.examples import read_examples
    from finemesh_trainer.rerank_task import RerankTask
    from finemesh_trainer.training import Loop, seed_everything

    run_settings = read_config(args.config, CrossEncoderRun, args.set)
    data = run_settings.data
    examples = [example for path in data.train for example in read_examples(path)]
    held_out = [example for path in data.held_out for example in read_examples(path)]
    seed_everything(run_settings.training.seed, -1)
    outcome = Loop(run_settings, RerankTask(run_settings, examples, held_out)).fit()
    print(f"{run_settings.name}: step {outcome.step} of {run_settings.training.steps}, in {run_settings.output}")
    return 0 if outcome.finished else 1
