"""The model card, written from the run: what was trained, on what, how, and how it went."""

import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from finemesh_trainer.config import Run
from finemesh_trainer.data.examples import Example
from finemesh_trainer.files import file_hash

CARD_FILE = "README.md"
BLOCKS = "▁▂▃▄▅▆▇█"
SPARK_POINTS = 60
PACKAGES = ("torch", "transformers", "sentence-transformers", "numpy")
TASKS = {"rerank": "Cross-encoder: scores a query with a passage.", "encode": "Encoder: texts to vectors."}


def write_card(
    run: Run, examples: Sequence[Example], curve: Sequence[Mapping[str, Any]], weights: Mapping[str, Any]
) -> None:
    """Writes the card into the run's folder."""
    sections = [
        f"# {run.name}\n\n{TASKS[run.task]}",
        f"## Base\n\n{base_source(run)}. {trained_part(run, weights)}",
        f"## Data\n\n{data_table(run)}\n\n{groups_line(examples)}",
        f"## Training\n\n{curve_lines(run, curve)}",
        f"## Held-out examples\n\n{measures_table(curve)}",
        f"## Settings\n\n```json\n{run.model_dump_json(indent=1)}\n```",
        f"## Made with\n\n{versions_line()}",
    ]
    partial = run.output / f"{CARD_FILE}.partial"
    partial.write_text("\n\n".join(sections) + "\n", encoding="utf-8")
    partial.replace(run.output / CARD_FILE)


def base_source(run: Run) -> str:
    """What the base is."""
    return run.base.source or run.base.folder.name


def trained_part(run: Run, weights: Mapping[str, Any]) -> str:
    """Which weights were trained, and how many."""
    what = {"all": "All weights", "layers": "Everything but word and position embeddings", "adapters": "Adapters"}
    return f"{what[run.trained]} trained: {sum(tensor.numel() for tensor in weights.values()):,} numbers."


def data_table(run: Run) -> str:
    """The files that were trained on, with their hashes; a folder has none."""
    rows = [f"| {path.name} | {file_hash(path)[:16] if path.is_file() else 'folder'} |" for path in run.data.train]
    return "\n".join(["| file | SHA-256 begins |", "|---|---|", *rows])


def groups_line(examples: Sequence[Example]) -> str:
    """How many examples were left after the guards, by group."""
    groups = Counter(example.group or "without a group" for example in examples)
    parts = ", ".join(f"{count:,} {name}" for name, count in sorted(groups.items()))
    return f"{len(examples):,} examples: {parts}."


def curve_lines(run: Run, curve: Sequence[Mapping[str, Any]]) -> str:
    """The loss as a line of blocks, with its ends."""
    losses = [entry["loss"] for entry in curve if "loss" in entry]
    done = f"Step {curve[-1]['step'] if curve else 0} of {run.training.steps}, {run.training.batch_size} examples each."
    return f"{done}\n\nLoss {losses[0]:.4f} to {losses[-1]:.4f}:\n\n    {sparkline(losses)}" if losses else done


def sparkline(values: Sequence[float]) -> str:
    """Values as blocks from lowest to highest, thinned to `SPARK_POINTS` means."""
    size = -(-len(values) // SPARK_POINTS)
    means = [sum(chunk) / len(chunk) for i in range(0, len(values), size) if (chunk := values[i : i + size])]
    low, high = min(means), max(means)
    step = (high - low) / (len(BLOCKS) - 1) or 1.0
    return "".join(BLOCKS[round((mean - low) / step)] for mean in means)


def measures_table(curve: Sequence[Mapping[str, Any]]) -> str:
    """What was measured at each checkpoint."""
    entries = [entry for entry in curve if any(name.startswith("held_out") for name in entry)]
    if not entries:
        return "None were given."
    names = [name for name in entries[-1] if name != "step"]
    rows = [f"| {entry['step']} | {' | '.join(f'{entry[name]:.4f}' for name in names)} |" for entry in entries]
    return "\n".join([f"| step | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|", *rows])


def versions_line() -> str:
    """The interpreter and the packages that decide the numbers."""
    return ", ".join([f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in PACKAGES)]) + "."
