"""A mining's folder: `progress.jsonl` while it runs; `examples.jsonl.gz` and `manifest.json` when it is done.

The version is a hash of all that decides the result: the recipe, the seed, the pair files' bytes, the snapshot. A
folder has one version; a run of another one is refused, a broken-off run of the same one goes on where it stopped.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import quantiles
from typing import Any

from finemesh_trainer.data.examples import Example, to_record
from finemesh_trainer.data.lines import write_objects
from finemesh_trainer.errors import ConfigError
from finemesh_trainer.files import file_hash, write_whole
from finemesh_trainer.mesh import Snapshot
from finemesh_trainer.mining.recipe import MiningConfig
from finemesh_trainer.mining.select import Dropped, Mined, Passage, Target

FORMAT = 1
"""Goes up when the same recipe would give other examples."""

EXAMPLES_FILE = "examples.jsonl.gz"
MANIFEST_FILE = "manifest.json"
PROGRESS_FILE = "progress.jsonl"


def describe_run(config: MiningConfig, snapshot: Snapshot) -> dict[str, Any]:
    """All that decides the result, with `version`, its hash. Paths, the address and the concurrency do not."""
    run = {
        "format": FORMAT,
        "collection": snapshot.collection,
        "snapshot": snapshot.number,
        "passages": snapshot.passages,
        "pairs": [{"file": path.name, "sha256": file_hash(path)} for path in config.pairs],
        "recipe": config.recipe.model_dump(mode="json"),
        "seed": config.seed,
        "limit": config.limit,
    }
    if config.recipe.vote:
        from finemesh_trainer.mining.vote import weights_path

        # The folder's name says nothing of the weights in it.
        run["recipe"]["vote"]["run"] = file_hash(weights_path(config.recipe.vote.run))
    canonical = json.dumps(run, sort_keys=True).encode()
    return {"version": hashlib.sha256(canonical).hexdigest(), **run}


class MiningFolder:
    """The folder of one run.

    Raises:
        ConfigError: the folder belongs to another run.
    """

    def __init__(self, path: Path, run: dict[str, Any]) -> None:
        self._path = path
        self._run = run
        path.mkdir(parents=True, exist_ok=True)
        held = self._held_version()
        if held not in (None, run["version"]):
            message = f"output: {path} holds version {held[:12]}, and this run would be {run['version'][:12]}"
            raise ConfigError([f"{message}: name another folder, or remove that one"])

    @property
    def examples_path(self) -> Path:
        """The examples, once they are there."""
        return self._path / EXAMPLES_FILE

    @property
    def _progress_path(self) -> Path:
        return self._path / PROGRESS_FILE

    def is_finished(self) -> bool:
        """Whether this run's result is there: the manifest is written last."""
        return (self._path / MANIFEST_FILE).exists()

    def read_manifest(self) -> dict[str, Any]:
        """The manifest of a finished run."""
        return json.loads((self._path / MANIFEST_FILE).read_text())

    def read_progress(self) -> dict[int, Mined]:
        """What was mined before, by the query's index; a line that a kill cut short is cut off."""
        if not self._progress_path.exists():
            self._progress_path.write_text(json.dumps({"version": self._run["version"]}) + "\n")
        content = self._progress_path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            self._progress_path.write_bytes(whole)
        records = [json.loads(line) for line in whole.splitlines()[1:]]
        return {record.pop("index"): mined_of(record) for record in records}

    def add_progress(self, mined: Iterable[tuple[int, Mined]]) -> None:
        """Keeps what was mined."""
        lines = [json.dumps(progress_record(index, found), ensure_ascii=False) + "\n" for index, found in mined]
        with self._progress_path.open("a", encoding="utf-8") as file:
            file.writelines(lines)

    def finish(self, targets: Sequence[Target], mined: Sequence[Mined]) -> dict[str, Any]:
        """Writes examples and manifest, and returns the manifest."""
        records = [
            example_record(target.example, found, self._run["collection"])
            for target, found in zip(targets, mined, strict=True)
            if found.dropped is None
        ]
        write_objects(self.examples_path, records)
        manifest = {**self._run, "examples": len(records), **statistics(mined)}
        write_whole(self._path / MANIFEST_FILE, json.dumps(manifest, indent=2) + "\n")
        self._progress_path.unlink()
        return self.read_manifest()

    def _held_version(self) -> str | None:
        if self.is_finished():
            return self.read_manifest()["version"]
        if not self._progress_path.exists():
            return None
        with self._progress_path.open("rb") as file:
            first = file.readline()
        return json.loads(first)["version"]


def progress_record(index: int, found: Mined) -> dict[str, Any]:
    """A result as the progress file has it."""
    removed = {source: dict(counts) for source, counts in found.removed.items()}
    return {"index": index, **asdict(replace(found, removed=removed))}


def mined_of(record: dict[str, Any]) -> Mined:
    """A result out of the progress file."""
    positive = record["positive"]
    return Mined(
        dropped=Dropped(record["dropped"]) if record["dropped"] else None,
        positive=Passage(**positive) if positive else None,
        negatives=[Passage(**negative) for negative in record["negatives"]],
        suspects=record["suspects"],
        removed={source: Counter(counts) for source, counts in record["removed"].items()},
        positive_ranks=record["positive_ranks"],
    )


def example_record(example: Example, found: Mined, collection: str) -> dict[str, Any]:
    """The mined example as a line, with the sources of its negatives beside what `Example` has."""
    mined = Example(
        query=example.query,
        positive=found.positive.text,
        negatives=tuple(negative.text for negative in found.negatives),
        weight=example.weight,
        query_id=example.query_id,
        positive_id=found.positive.id,
        negative_ids=tuple(negative.id for negative in found.negatives),
        group=example.group or collection,
    )
    return {**to_record(mined), "negative_sources": [negative.source for negative in found.negatives]}


def statistics(mined: Sequence[Mined]) -> dict[str, Any]:
    """What was dropped, removed and drawn, by source, and where the positives ranked."""
    kept = [found for found in mined if found.dropped is None]
    drawn = Counter(negative.source for found in kept for negative in found.negatives)
    removed: dict[str, Counter[str]] = {}
    for found in mined:
        for source, counts in found.removed.items():
            removed.setdefault(source, Counter()).update(counts)
    ranks: dict[str, list[int]] = {}
    for found in mined:
        for ranking, rank in found.positive_ranks.items():
            ranks.setdefault(ranking, []).append(rank)
    return {
        "queries": len(mined),
        "dropped": dict(sorted(Counter(found.dropped for found in mined if found.dropped).items())),
        "drawn": dict(sorted(drawn.items())),
        "removed": {source: dict(sorted(counts.items())) for source, counts in sorted(removed.items())},
        "negatives_per_example": dict(sorted(Counter(len(found.negatives) for found in kept).items())),
        "positive_ranks": {ranking: rank_summary(values) for ranking, values in sorted(ranks.items())},
    }


def rank_summary(ranks: Sequence[int]) -> dict[str, float]:
    """How many queries had their positive in a ranking, how many at its head, and the ranks' deciles that matter."""
    deciles = quantiles(ranks, n=10) if len(ranks) > 1 else [float(ranks[0])] * 9
    return {"found": len(ranks), "first": ranks.count(1), "median": deciles[4], "ninth_decile": deciles[8]}
