"""The loop: steps, checkpoints, the loss curve. A run that is cut off goes on as if it had not been.

Nothing of a step depends on the steps before it but the weights and the optimizer's state: the order of the examples,
what is drawn from them, dropout and the learning rate follow from the seed and the step's number alone. A checkpoint
is therefore the step, the trained weights and the optimizer's state, and a resumed run gives the weights of an
uninterrupted one to the bit (on the CPU, with as many threads).

sentence-transformers' own trainer is left aside: it resumes by replaying its data loader, knows no weights of examples
and no pairs with marks, and its losses, which are used here, do not need it.

A run's folder:

    run.json              the settings, checked again before a run is resumed
    checkpoint.pt         step, trained weights and optimizer state; replaced as a whole
    weights.safetensors   the trained weights alone, as of the last checkpoint: what `export` reads
    README.md             the model card, as of the last checkpoint
    curve.jsonl           {"step", "loss", "learning_rate", "seconds"} every few steps, and held-out measures
"""

import json
import math
import os
import random
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from finemesh_trainer.card import write_card
from finemesh_trainer.config import Run, RunType, Training
from finemesh_trainer.data.examples import Example
from finemesh_trainer.errors import ConfigError, TrainerError

SETTINGS_FILE, CHECKPOINT_FILE = "run.json", "checkpoint.pt"
TRAINED_FILE, CURVE_FILE = "weights.safetensors", "curve.jsonl"
CURVE_STEPS = 10
"""Steps whose mean loss makes one line of the curve."""


class Task(Protocol):
    """What is trained, and on what."""

    model: nn.Module
    examples: Sequence[Example]

    def add_gradients(self, batch: Sequence[Example], draw: random.Random) -> float:
        """Adds the gradients of a batch's loss to the model's, and returns the loss. Draws from `draw` alone."""

    def measures(self) -> dict[str, float]:
        """Measures on held-out examples; empty where there are none."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Where a run stands."""

    step: int
    finished: bool


def pick_device(name: str) -> torch.device:
    """The device that a run's settings name.

    Raises:
        ConfigError: for `cuda` where there is none.
    """
    has_gpu = torch.cuda.is_available()
    if name == "cuda" and not has_gpu:
        raise ConfigError(['training.device: is "cuda", and there is no usable GPU'])
    return torch.device("cuda" if has_gpu and name != "cpu" else "cpu")


def seed_everything(seed: int, step: int) -> random.Random:
    """Seeds what PyTorch draws in this step, and gives the generator for everything else."""
    draw = random.Random(f"{seed} {step}")
    torch.manual_seed(draw.getrandbits(63))
    return draw


def batch_of(examples: Sequence[Example], batch_size: int, seed: int, step: int) -> list[Example]:
    """The examples of a step: the order is shuffled anew for every round over them."""
    orders: dict[int, list[int]] = {}
    batch = []
    for position in range(step * batch_size, (step + 1) * batch_size):
        round_, place = divmod(position, len(examples))
        if round_ not in orders:
            orders[round_] = shuffled(len(examples), seed, round_)
        batch.append(examples[orders[round_][place]])
    return batch


def shuffled(count: int, seed: int, round_: int) -> list[int]:
    """A seeded order of `count` things."""
    order = list(range(count))
    random.Random(f"{seed} order {round_}").shuffle(order)
    return order


def learning_rate(settings: Training, step: int) -> float:
    """Rises in a straight line over the warm-up, then falls to zero at the end."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    return settings.learning_rate * (settings.steps - step) / (settings.steps - settings.warmup_steps)


def make_optimizer(model: nn.Module, settings: Training) -> torch.optim.Optimizer:
    """AdamW; biases, norms and other vectors do not decay."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate)


class Loop:
    """One run in its folder."""

    def __init__(self, run: Run, task: Task) -> None:
        self.run, self.task, self.settings = run, task, run.training
        self.folder = run.output
        self.device = pick_device(self.settings.device)
        torch.set_num_threads(self.settings.threads)
        task.model.to(self.device)
        self.optimizer = make_optimizer(task.model, self.settings)
        self.curve = Curve(self.folder / CURVE_FILE)
        self.interrupted = threading.Event()

    def fit(self) -> Outcome:
        """Trains up to the last step, or until the process is asked to stop."""
        first_step = self.restore()
        progress = tqdm(
            range(first_step, self.settings.steps), self.run.name, initial=first_step, total=self.settings.steps
        )
        with stop_on_signal(self.interrupted):
            for step in progress:
                loss = self.step(step)
                progress.set_postfix(loss=f"{loss:.4f}", refresh=False)
                self.curve.add(step + 1, loss, learning_rate(self.settings, step))
                if self.ends_a_piece(step + 1):
                    self.checkpoint(step + 1)
                if self.interrupted.is_set():
                    return Outcome(step + 1, finished=step + 1 == self.settings.steps)
        return Outcome(self.settings.steps, finished=True)

    def ends_a_piece(self, step: int) -> bool:
        """Whether a checkpoint is due."""
        due = step % self.settings.checkpoint_every_steps == 0 or step == self.settings.steps
        return due or self.interrupted.is_set()

    def step(self, step: int) -> float:
        """One step of the optimizer; returns the loss before it."""
        settings, model = self.settings, self.task.model
        draw = seed_everything(settings.seed, step)
        batch = batch_of(self.task.examples, settings.batch_size, settings.seed, step)
        model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(settings, step)
        loss = self.finite(self.task.add_gradients(batch, draw), step)
        nn.utils.clip_grad_norm_(model.parameters(), settings.max_gradient_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss

    def finite(self, loss: float, step: int) -> float:
        """The loss; a run that has diverged ends here, with its last checkpoint intact."""
        if not math.isfinite(loss):
            raise TrainerError(f"step {step + 1}: the loss is {loss}; lower training.learning_rate")
        return loss

    def checkpoint(self, step: int) -> None:
        """Measures, then writes everything that a resumed run and an export need."""
        self.task.model.eval()
        with torch.no_grad():
            self.curve.measure(step, self.task.measures())
        self.curve.flush()
        weights = trained_weights(self.task.model)
        state = {"step": step, "weights": weights, "optimizer": self.optimizer.state_dict()}
        replace(self.folder / TRAINED_FILE, lambda path: save_file(weights, path))
        write_card(self.run, self.task.examples, read_curve(self.folder / CURVE_FILE), weights)
        replace(self.folder / CHECKPOINT_FILE, lambda path: torch.save(state, path))

    def restore(self) -> int:
        """Goes back to the last checkpoint, if there is one; returns the step to go on from."""
        self.folder.mkdir(parents=True, exist_ok=True)
        check_settings(self.folder / SETTINGS_FILE, self.run)
        path = self.folder / CHECKPOINT_FILE
        if not path.is_file():
            self.curve.cut(0)
            if self.run.start is not None:
                load_trained_file(self.task.model, self.run.start)
            return 0
        state = torch.load(path, map_location=self.device, weights_only=True)
        load_trained(self.task.model, state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.curve.cut(state["step"])
        return state["step"]


class Curve:
    """The loss curve's file. Lines behind a checkpoint are cut off when a run goes back to it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.losses: list[float] = []
        self.lines: list[str] = []
        self.started = time.monotonic()

    def add(self, step: int, loss: float, rate: float) -> None:
        """Notes a step's loss."""
        self.losses.append(loss)
        if step % CURVE_STEPS == 0:
            mean = sum(self.losses) / len(self.losses)
            self.note({"step": step, "loss": round(mean, 6), "learning_rate": rate, "seconds": self.seconds()})
            self.losses = []

    def measure(self, step: int, measures: dict[str, float]) -> None:
        """Notes measures, if there are any."""
        if measures:
            self.note({"step": step, **{name: round(value, 6) for name, value in measures.items()}})

    def seconds(self) -> float:
        """Since this piece of the run began."""
        return round(time.monotonic() - self.started, 1)

    def note(self, entry: dict[str, Any]) -> None:
        self.lines.append(json.dumps(entry) + "\n")

    def flush(self) -> None:
        """Puts what was noted into the file."""
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(self.lines)
        self.lines = []

    def cut(self, step: int) -> None:
        """Leaves the entries up to a step."""
        entries = read_curve(self.path)
        kept = [json.dumps(entry) + "\n" for entry in entries if entry["step"] <= step]
        self.path.write_text("".join(kept), encoding="utf-8")


def read_curve(path: Path) -> list[dict[str, Any]]:
    """The entries of a loss curve; none where there is no file yet."""
    lines = path.read_text("utf-8").splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines]


def trained_weights(model: nn.Module) -> dict[str, Tensor]:
    """What training changes, on the CPU."""
    return {n: p.detach().cpu().contiguous() for n, p in model.named_parameters() if p.requires_grad}


def load_trained(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Puts trained weights into a model that was built from the same settings.

    Raises:
        TrainerError: when they are another model's.
    """
    expected = {name: parameter.shape for name, parameter in model.named_parameters() if parameter.requires_grad}
    if expected.keys() != weights.keys():
        odd = sorted(expected.keys() ^ weights.keys())[0]
        raise TrainerError(f"the weights do not belong to this model: {odd} is on one side only")
    for name, shape in expected.items():
        if shape != weights[name].shape:
            there, here = list(weights[name].shape), list(shape)
            raise TrainerError(f"the weights do not belong to this model: {name} is {there} there and {here} here")
    model.load_state_dict(weights, strict=False)


def load_trained_file(model: nn.Module, folder: Path) -> None:
    """Puts the weights of a run's last checkpoint into a model that was built from the run's settings."""
    path = folder / TRAINED_FILE
    if not path.is_file():
        raise ConfigError([f"{folder}: has no {TRAINED_FILE}: the run has not reached a checkpoint"])
    load_trained(model, load_file(path))


def load_run(folder: Path, kind: type[RunType]) -> RunType:
    """The settings of a run's folder.

    Raises:
        ConfigError: when there is no run of this kind.
    """
    path = folder / SETTINGS_FILE
    try:
        return kind.model_validate_json(path.read_text("utf-8"))
    except (OSError, ValidationError) as error:
        raise ConfigError([f"{path}: is no run of this kind: {error}"]) from error


def check_settings(path: Path, run: Run) -> None:
    """Writes a new run's settings; refuses to go on with a run under others.

    Raises:
        ConfigError: with the first key that differs.
    """
    if not path.is_file():
        replace(path, lambda partial: partial.write_text(run.model_dump_json(indent=1) + "\n", "utf-8"))
        return
    before = load_run(path.parent, type(run))
    for key in type(run).model_fields:
        if getattr(before, key) != getattr(run, key):
            there, here = getattr(before, key), getattr(run, key)
            message = f"the run there has {key} = {there}, this one {here}; take another output folder"
            raise ConfigError([f"output: {path.parent}: {message}"])


def replace(path: Path, write: Any) -> None:
    """Writes a file under another name first, so that it is never there in part."""
    partial = path.with_name(path.name + ".partial")
    write(partial)
    os.replace(partial, path)


@contextmanager
def stop_on_signal(interrupted: threading.Event) -> Iterator[None]:
    """SIGINT and SIGTERM end the run behind the current step, with a checkpoint."""

    def note(signum: int, frame: FrameType | None) -> None:
        interrupted.set()

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
