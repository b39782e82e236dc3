"""What each part of the recipe is worth at equal training time: trains what is not trained yet, and prints a table.

    python benches/ablation.py configs/ablation.toml

A variant is the base configuration with values in place of some of its own; a run that was broken off goes on. All take
the same number of steps of the same size. Measured is the reciprocal rank of the positive in held-out lists that no
variant trains on, whole, all negatives at once; the interval of a difference is a paired bootstrap over the lists.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from pydantic import Field
from tqdm import tqdm

from finemesh_trainer.config import CrossEncoderRun, Section, read_config
from finemesh_trainer.data.examples import Example, read_examples
from finemesh_trainer.errors import ConfigError, TrainerError
from finemesh_trainer.rerank_task import load_cross_encoder
from finemesh_trainer.runs import start
from finemesh_trainer.training import load_run

RESAMPLES = 10_000


class Variant(Section):
    """One training, and what it is compared with."""

    name: str = Field(pattern="^[a-z0-9-]+$")
    set: list[str] = Field(default_factory=list)
    """`KEY=VALUE` in place of the base configuration's."""
    run: Path | None = None
    """A run that is finished already, in place of a training here."""
    against: str | None = None
    """The variant that lacks what this one has, or has what it lacks; it stands further up."""


class Ablation(Section):
    """The file."""

    base: Path
    """Configuration of a cross-encoder."""
    output: Path
    """Runs are folders in it, named as the variants."""
    held_out: list[Path] = Field(min_length=1)
    set: list[str] = Field(default_factory=list)
    """Of all variants."""
    variants: list[Variant] = Field(min_length=1)
    seed: int = 1


def main() -> None:
    """Trains, measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    try:
        print(run(read_config(parser.parse_args().config, Ablation)))
    except TrainerError as error:
        raise SystemExit(str(error)) from error


def run(ablation: Ablation) -> str:
    """The table.

    Raises:
        ConfigError: a variant is compared with none above it; nothing was trained.
        TrainerError: a training was interrupted.
    """
    refuse_unknown(ablation.variants)
    runs = {variant.name: run_of(ablation, variant) for variant in ablation.variants}
    for variant in ablation.variants:
        if variant.run is None:
            finish(runs[variant.name])
    lists = [example for path in ablation.held_out for example in read_examples(path)]
    ranks = {variant.name: reciprocal_ranks(folder_of(ablation, variant), lists) for variant in ablation.variants}
    rows = [row(variant, runs[variant.name], ranks, ablation.seed) for variant in ablation.variants]
    header = ["variant", "examples seen", f"MRR in {len(lists)} lists", "difference [95 %]"]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [header, ["---"] * len(header), *rows])


def refuse_unknown(variants: Sequence[Variant]) -> None:
    """Refuses names twice, and comparisons with what is not there."""
    for index, variant in enumerate(variants):
        above = [other.name for other in variants[:index]]
        if variant.name in above:
            raise ConfigError([f"variants.{index}.name: {variant.name} stands further up already"])
        if variant.against is not None and variant.against not in above:
            raise ConfigError([f"variants.{index}.against: {variant.against} is no variant further up"])


def run_of(ablation: Ablation, variant: Variant) -> CrossEncoderRun:
    """The settings of a variant's training."""
    if variant.run is not None:
        return load_run(variant.run, CrossEncoderRun)
    own = [f'name="{variant.name}"', f'output="{ablation.output / variant.name}"']
    return read_config(ablation.base, CrossEncoderRun, [*ablation.set, *variant.set, *own])


def folder_of(ablation: Ablation, variant: Variant) -> Path:
    """Where a variant's weights are."""
    return variant.run or ablation.output / variant.name


def finish(settings: CrossEncoderRun) -> None:
    """Trains to the last step; a finished run is left as it is."""
    if not start(settings).finished:
        raise TrainerError(f"{settings.name}: was interrupted; the same command goes on")


def reciprocal_ranks(folder: Path, lists: Sequence[Example]) -> np.ndarray:
    """Of the positive of each list; equal scores rank before it."""
    model = load_cross_encoder(folder)
    found = []
    for example in tqdm(lists, unit="list", desc=folder.name):
        with torch.inference_mode():
            scores = model.score_lists([example.query], [[example.positive, *example.negatives]])[0]
        found.append(1 / (1 + int((scores[1:] >= scores[0]).sum())))
    return np.array(found)


def row(variant: Variant, settings: CrossEncoderRun, ranks: dict[str, np.ndarray], seed: int) -> list[str]:
    """A line of the table."""
    seen = settings.training.steps * settings.training.batch_size
    own = ranks[variant.name]
    delta = "" if variant.against is None else f"to {variant.against}: {interval(own - ranks[variant.against], seed)}"
    return [variant.name, str(seen), f"{own.mean():.4f}", delta]


def interval(values: np.ndarray, seed: int) -> str:
    """A mean difference with its 95 % percentile interval."""
    rng = np.random.default_rng(seed)
    means = [rng.choice(values, size=len(values)).mean() for _ in range(RESAMPLES)]
    low, high = np.quantile(means, (0.025, 0.975))
    return f"{values.mean():+.4f} [{low:+.4f}, {high:+.4f}]"


if __name__ == "__main__":
    main()
