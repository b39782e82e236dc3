"""What is measured: the configuration of `finemesh-trainer evaluate`."""

from collections import Counter
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from finemesh_trainer.config import Section

Name = Annotated[str, Field(min_length=1)]


class JudgedSet(Section):
    """Judged queries over an indexed collection, in BEIR's layout. `limit` takes so many, evenly over the file."""

    name: Name
    collection: Name
    queries: Path
    qrels: Path
    limit: Annotated[int, Field(ge=1)] | None = None


class Contender(Section):
    """A pipeline of the mesh. `config` is the mesh's configuration file; it names the models and the blend weights."""

    name: Name
    pipeline: Name
    config: Path | None = None


class Candidate(Contender):
    """A pipeline with the model in question.

    `weights_fixed_on` tells the report on which data the blend weights were chosen: never on a set that is measured.
    """

    weights_fixed_on: Name


class EvaluationPlan(Section):
    """One evaluation: every contender on every set. `binary` is the `finemesh` to run, `data` has the collections."""

    binary: Path
    data: Path
    output: Path
    sets: Annotated[list[JudgedSet], Field(min_length=1)]
    baseline: Contender
    candidates: Annotated[list[Candidate], Field(min_length=1)]
    seed: int = 1

    @model_validator(mode="after")
    def names_differ(self) -> Self:
        """Names stand for rows and columns."""
        contenders = [self.baseline.name, *(candidate.name for candidate in self.candidates)]
        for what, names in [("sets", [judged.name for judged in self.sets]), ("contenders", contenders)]:
            repeated = [name for name, count in Counter(names).items() if count > 1]
            if repeated:
                raise ValueError(f"{what}: names must differ, {', '.join(repeated)} is given twice")
        return self

    def missing_files(self) -> list[str]:
        """The files that are named and not there, each with its key."""
        files = {"binary": self.binary, "data": self.data, "baseline.config": self.baseline.config}
        for index, judged in enumerate(self.sets):
            files |= {f"sets.{index}.queries": judged.queries, f"sets.{index}.qrels": judged.qrels}
        files |= {f"candidates.{index}.config": candidate.config for index, candidate in enumerate(self.candidates)}
        return [f"{key}: {path} is not there" for key, path in files.items() if path and not path.exists()]
