"""A run from its settings: which kind it is, what it learns from, and what it leaves."""

import json
from collections.abc import Sequence
from pathlib import Path

from finemesh_trainer.config import CrossEncoderRun, EncoderRun, Run, read_config
from finemesh_trainer.data.examples import Example
from finemesh_trainer.data.load import load_examples, load_training_examples
from finemesh_trainer.encode_task import EncodeTask, load_encoder
from finemesh_trainer.errors import ConfigError
from finemesh_trainer.export_content import Content, GraphKind, encode_content, rerank_content
from finemesh_trainer.models.cross_encoder import CrossEncoder
from finemesh_trainer.models.encoder import Encoder
from finemesh_trainer.rerank_task import RerankTask, load_cross_encoder
from finemesh_trainer.training import SETTINGS_FILE, Loop, Outcome, Task, seed_everything

KINDS: dict[str, type[Run]] = {"encoder": EncoderRun, "cross-encoder": CrossEncoderRun}
BEFORE_THE_FIRST_STEP = -1


def read_run(kind: str, path: Path, overrides: Sequence[str]) -> Run:
    """The settings of `train encoder` or `train cross-encoder`."""
    return read_config(path, KINDS[kind], overrides)


def start(run: Run) -> Outcome:
    """Reads and guards the data, then trains, from the last checkpoint if there is one."""
    settings = run.training
    guarded = load_training_examples(run.data.train, run.data.tests, run.data.guards, settings.seed)
    held_out = load_examples(run.data.held_out)
    for guard, findings in guarded.findings.items():
        print(f"{guard}: {len(findings)} found; policy: {getattr(run.data.guards, guard)}")
    seed_everything(settings.seed, BEFORE_THE_FIRST_STEP)
    return Loop(run, make_task(run, guarded.examples, held_out)).fit()


def make_task(run: Run, examples: Sequence[Example], held_out: Sequence[Example]) -> Task:
    """The task of a run of any kind."""
    if isinstance(run, CrossEncoderRun):
        return RerankTask(run, examples, held_out)
    return EncodeTask(run, examples, held_out)


def load_model(folder: Path) -> Encoder | CrossEncoder:
    """The trained model of a run's folder.

    Raises:
        ConfigError: when there is no run in it.
    """
    return load_cross_encoder(folder) if is_cross_encoder(folder) else load_encoder(folder)


def load_content(folder: Path, kind: GraphKind) -> Content:
    """What the weights in a run's folder make.

    Raises:
        ConfigError: when there is no run in it.
    """
    model = load_model(folder)
    return rerank_content(model, kind) if isinstance(model, CrossEncoder) else encode_content(model, kind)


def is_cross_encoder(folder: Path) -> bool:
    """Whether a run's folder holds a cross-encoder; otherwise an encoder.

    Raises:
        ConfigError: when there is no run in it.
    """
    path = folder / SETTINGS_FILE
    if not path.is_file():
        raise ConfigError([f"{folder}: holds no run: {SETTINGS_FILE} is missing"])
    return json.loads(path.read_text("utf-8"))["task"] == "rerank"
