"""Everything that a run learns from, guarded: files of examples and BEIR folders in, clean examples out."""

from collections.abc import Sequence
from pathlib import Path

from finemesh_trainer.data.beir import read_folder
from finemesh_trainer.data.examples import Example, read_examples
from finemesh_trainer.data.guards import Guarded, GuardPolicy, guard_examples, read_test_set


def load_examples(paths: Sequence[Path]) -> list[Example]:
    """The examples of JSONL files, and of the train judgements of BEIR folders, in order."""
    return [example for path in paths for example in (read_folder(path) if path.is_dir() else read_examples(path))]


def load_training_examples(train: Sequence[Path], tests: Sequence[Path], policy: GuardPolicy, seed: int = 0) -> Guarded:
    """Reads and guards.

    Args:
        tests: BEIR folders, whose `qrels/test.tsv` counts, and files of held-out examples.

    Raises:
        DataError: with file and line, for whatever cannot be used or is refused.
    """
    return guard_examples(load_examples(train), [read_test_set(path) for path in tests], policy, seed)
