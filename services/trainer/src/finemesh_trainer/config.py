"""A run's settings: a TOML file, checked whole before anything starts.

Unknown keys are refused, and all mistakes are told at once, each with its key: `training.steps: must be above 0`.
Paths are taken from the working folder. `KEY=VALUE` on the command line stands in place of the file's value.
"""

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator, with_config

from finemesh_trainer.data.guards import GuardPolicy
from finemesh_trainer.errors import ConfigError


class Section(BaseModel):
    """A table of the file: closed, and never changed once it is read."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Base(Section):
    """The pretrained model that is started from."""

    folder: Path
    """Holds `model.safetensors` and `tokenizer.json`, as a pulled bundle does."""
    source: str | None = None
    """What it is and under which licence, for the model card; the folder's name where nothing is said."""
    layers: list[int] | None = Field(default=None, min_length=1)
    """The layers that are kept, in their order: every other one makes a student of half the depth. None: all."""


with_config(ConfigDict(extra="forbid"))(GuardPolicy)


class Data(Section):
    """Where examples come from."""

    train: list[Path] = Field(min_length=1)
    """JSONL files of pairs, triplets or mined lists, plain or gzipped, and BEIR folders with train judgements."""
    held_out: list[Path] = []
    """Files of the same form that are never trained on; their measures go into the loss curve."""
    tests: list[Path] = []
    """Judged collections and files that must stay unseen: a query of theirs among the examples stops the run."""
    guards: GuardPolicy = GuardPolicy()
    """What is done about leaks, duplicates, template questions, copies and false negatives."""


class Adapters(Section):
    """Low-rank adapters: `W + scale · B·A` in place of trained matrices."""

    rank: int = Field(gt=0)
    scale: float = Field(default=2.0, gt=0)


class Training(Section):
    """The loop."""

    steps: int = Field(gt=0)
    batch_size: int = Field(gt=0)
    """Examples per step; for the cross-encoder an example is a whole list."""
    learning_rate: float = Field(gt=0)
    """Reached after `warmup_steps`; falls to zero in a straight line until the last step."""
    warmup_steps: int = Field(default=0, ge=0)
    weight_decay: float = Field(default=0.01, ge=0)
    max_gradient_norm: float = Field(default=1.0, gt=0)
    seed: int = Field(default=0, ge=0)
    checkpoint_every_steps: int = Field(default=200, gt=0)
    threads: int = Field(default=1, gt=0)
    """Threads of the CPU."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes the GPU where there is one."""

    @model_validator(mode="after")
    def warmup_fits(self) -> Self:
        if self.warmup_steps >= self.steps:
            raise ValueError(f"warmup_steps is {self.warmup_steps}; it must be below steps = {self.steps}")
        return self


class Run(Section):
    """What every run has."""

    name: str = Field(min_length=1)
    output: Path
    """Checkpoints, weights, the loss curve and the model card are written here."""
    base: Base
    data: Data
    start: Path | None = None
    """Another run's folder, of a model of the same shape, whose trained weights are started from: one stage after
    another, say in-batch negatives before mined ones. None: from the base."""
    trained: Literal["all", "layers", "adapters"] = "all"
    """`layers` leaves the word and position embeddings as they are; `adapters` the matrices too."""
    adapters: Adapters | None = None
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Of every layer, attention and head. Worth its time where examples are seen more than once."""
    training: Training

    @model_validator(mode="after")
    def adapters_where_trained(self) -> Self:
        if (self.trained == "adapters") != (self.adapters is not None):
            raise ValueError('the table [adapters] must be given exactly where trained = "adapters"')
        return self


class Pairs(Section):
    """How a query and a passage become one input."""

    max_tokens: int = Field(default=160, ge=8, le=512)
    """Tokens of query and passage together, special tokens included, that the model reads when it serves."""
    training_max_tokens: int | None = Field(default=None, ge=8, le=512)
    """The same in training, where fewer save time; none: `max_tokens`."""
    max_query_tokens: int = Field(default=48, ge=1)
    mark_exact_matches: bool = True
    negatives: int = Field(default=7, gt=0)
    """Per list. Where an example has more, they are drawn; where fewer, other examples' positives fill up."""
    pairs_per_forward: int = Field(default=16, gt=0)
    """Pairs of like length that go through the model together: few keep padding and caches small on a CPU."""

    @model_validator(mode="after")
    def passages_have_room(self) -> Self:
        for name, tokens in (("max_tokens", self.max_tokens), ("training_max_tokens", self.tokens_in_training)):
            if self.max_query_tokens + 4 > tokens:
                raise ValueError(f"max_query_tokens is {self.max_query_tokens}; {name} must exceed it by 4 or more")
        return self

    @property
    def tokens_in_training(self) -> int:
        """Tokens that the model reads of a pair while it is trained."""
        return self.training_max_tokens or self.max_tokens


class ListLoss(Section):
    """What the cross-encoder minimises."""

    kind: Literal["listwise_softmax", "kl", "margin_mse"] = "listwise_softmax"
    teacher: Path | None = None
    """A finished cross-encoder's run folder. It scores the lists that carry no teacher's scores."""
    temperature: float = Field(default=1.0, gt=0)
    """Of `kl`: both score lists are divided by it."""


class CrossEncoderRun(Run):
    """`train cross-encoder`."""

    task: Literal["rerank"] = "rerank"
    pairs: Pairs = Pairs()
    loss: ListLoss = ListLoss()


class Prompts(Section):
    """What is put in front of a text, verbatim."""

    query: str = ""
    passage: str = ""


class Texts(Section):
    """How texts are read."""

    max_tokens: int = Field(default=256, ge=4, le=512)
    """Of one text, special tokens included, that the model reads when it serves; longer ones are cut."""
    training_max_tokens: int | None = Field(default=None, ge=4, le=512)
    """The same in training, where fewer save time; none: `max_tokens`."""
    prompts: Prompts = Prompts()
    negatives: int = Field(default=1, ge=0)
    """Per example; with 0 there are only the other examples' positives."""
    texts_per_forward: int | None = Field(default=None, gt=0)
    """Gradient caching (Gao et al. 2021, arXiv 2101.06983): that many texts go through the model at once, twice, and a
    batch may be as large as is good for the loss. None: all at once, one time."""


TripletKind = Literal[
    "triplet", "batch_hard_triplet", "batch_semi_hard_triplet", "batch_all_triplet", "batch_hard_soft_margin_triplet"
]
TRIPLET_KINDS = get_args(TripletKind)


class SentenceLoss(Section):
    """What the sentence vectors minimise."""

    kind: Literal["in_batch_negatives", "kl", "margin_mse"] | TripletKind = "in_batch_negatives"
    scale: float = Field(default=20.0, gt=0)
    """Cosines are multiplied by it, save in the triplet losses."""
    margin: float = Field(default=0.3, gt=0)
    """Of the triplet losses, in cosine distance."""
    matryoshka: list[int] = []
    """Widths at which the loss is taken as well, ascending; each prefix is brought to unit length."""
    teacher: Path | None = None
    """A finished cross-encoder's run folder, for `kl` and `margin_mse`; or else the examples carry scores."""
    temperature: float = Field(default=1.0, gt=0)

    @model_validator(mode="after")
    def widths_ascend(self) -> Self:
        if self.matryoshka != sorted(set(self.matryoshka)) or any(width < 1 for width in self.matryoshka):
            raise ValueError(f"matryoshka: is {self.matryoshka}; widths must ascend from 1")
        return self


class TokenLoss(Section):
    """The token vectors: their width, and their contrastive MaxSim loss beside the sentence loss."""

    width: int = Field(default=96, gt=0)
    weight: float = Field(default=1.0, gt=0)
    scale: float = Field(default=1.0, gt=0)
    """MaxSim, the sum over the query's tokens, is multiplied by it."""


class EncoderRun(Run):
    """`train encoder`."""

    task: Literal["encode"] = "encode"
    texts: Texts = Texts()
    sentence_loss: SentenceLoss = SentenceLoss()
    token_loss: TokenLoss | None = None
    """None: the bundle has no token vectors."""

    @model_validator(mode="after")
    def lists_have_negatives(self) -> Self:
        if self.sentence_loss.kind in ("triplet", "kl", "margin_mse") and self.texts.negatives == 0:
            raise ValueError(f"texts.negatives: is 0; sentence_loss.kind = {self.sentence_loss.kind} needs one or more")
        return self


RunType = TypeVar("RunType", bound=Section)


def read_config(path: Path, kind: type[RunType], overrides: Sequence[str] = ()) -> RunType:
    """Reads a run's file.

    Args:
        overrides: `KEY=VALUE`, the key dotted as in `training.steps=100`, the value written as in TOML; what is no
            TOML value is taken as a string.

    Raises:
        ConfigError: with every problem of the file.
    """
    values = parse_toml(path)
    for override in overrides:
        apply_override(values, override)
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ConfigError([f"{path}: {problem_text(problem)}" for problem in error.errors()]) from error


def parse_toml(path: Path) -> dict[str, Any]:
    """The tables of a file."""
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path}: is not TOML: {error}"]) from error


def apply_override(values: dict[str, Any], override: str) -> None:
    """Puts one `KEY=VALUE` in its place."""
    key, equals, text = override.partition("=")
    *tables, last = key.split(".")
    if not equals or not all([*tables, last]):
        raise ConfigError([f"--set {override}: KEY=VALUE is expected"])
    for table in tables:
        values = values.setdefault(table, {})
        if not isinstance(values, dict):
            raise ConfigError([f"--set {override}: {table} is no table"])
    values[last] = toml_value(text)


def toml_value(text: str) -> Any:
    """A value as TOML writes it; a string where it is none."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def problem_text(problem: Any) -> str:
    """`training.steps: must be above 0`, for one of pydantic's problems."""
    key = ".".join(str(part) for part in problem["loc"])
    message = problem["msg"].removeprefix("Value error, ")
    return f"{key}: {message}" if key else message
