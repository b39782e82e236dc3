"""`finemesh-trainer mine`: pairs and a running mesh to mined examples."""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

from tqdm import tqdm

from finemesh_trainer.arguments import add_config
from finemesh_trainer.data.examples import Example, read_examples
from finemesh_trainer.mesh import Answer, MeshError, QueryRefused, Ranking, SearchClient, Snapshot
from finemesh_trainer.mining.output import MiningFolder, describe_run
from finemesh_trainer.mining.randoms import add_randoms, query_rng
from finemesh_trainer.mining.recipe import MiningConfig
from finemesh_trainer.mining.select import Dropped, Judge, Mined, Target, build_targets, select

BATCH_QUERIES = 64
"""Queries between two writes of the progress file: at most this much work is lost when a run is killed."""


def add_parser(subparsers: Any) -> None:
    """Adds `mine` to the command line."""
    parser = subparsers.add_parser("mine", help="mine hard negatives through a running mesh")
    add_config(parser, "what to mine, and how (TOML)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Mines as the configuration says, or goes on with a mining that was broken off."""
    from finemesh_trainer.config import read_config

    mine(read_config(args.config, MiningConfig, args.set))
    return 0


def mine(config: MiningConfig, judge: Judge | None = None) -> dict[str, Any]:
    """Runs one mining and returns its manifest. `judge` votes in place of the recipe's `vote.run` where it is given.

    Raises:
        DataError, ConfigError: the pairs or the folder cannot be used; nothing was asked of the mesh then.
        MeshError: the mesh failed; what was mined so far is kept.
    """
    targets = sample(build_targets(read_all(config.pairs)), config.limit, config.seed)
    with SearchClient(config.address) as client:
        snapshot = client.snapshot(config.collection)
        folder = MiningFolder(config.output, describe_run(config, snapshot))
        if folder.is_finished():
            say(f"{folder.examples_path}: is there already, of the same recipe, pairs and snapshot")
            return folder.read_manifest()
        mined = mine_all(targets, Miner(client, config, snapshot, judge or load_judge(config)), folder)
    add_randoms(targets, mined, config.recipe, config.seed)
    manifest = folder.finish(targets, mined)
    say(f"{folder.examples_path}: {manifest['examples']} examples of {len(targets)} queries")
    return manifest


def read_all(paths: Sequence[Path]) -> list[Example]:
    """The examples of all files."""
    return [example for path in paths for example in read_examples(path)]


def sample(targets: list[Target], limit: int | None, seed: int) -> list[Target]:
    """`limit` targets at random, in their order; all, where there are no more."""
    if limit is None or limit >= len(targets):
        return targets
    return [targets[index] for index in sorted(Random(seed).sample(range(len(targets)), limit))]


def load_judge(config: MiningConfig) -> Judge | None:
    """The cross-encoder of the recipe's vote, if it has one."""
    if config.recipe.vote is None:
        return None
    from finemesh_trainer.mining.vote import CrossEncoderJudge

    return CrossEncoderJudge(config.recipe.vote.run)


class Miner:
    """Mines single queries, from many threads."""

    def __init__(self, client: SearchClient, config: MiningConfig, snapshot: Snapshot, judge: Judge | None) -> None:
        self.concurrency = config.concurrency
        self._client = client
        self._config = config
        self._snapshot = snapshot
        self._judge = judge
        self._depths = config.recipe.depths()

    def mine_query(self, target: Target) -> Mined:
        """Asks for every ranking of the recipe and selects from them."""
        query = target.example.query
        try:
            answers = {ranking: self.ask(query, ranking, hits) for ranking, hits in self._depths.items()}
        except QueryRefused:
            return Mined(dropped=Dropped.QUERY_REFUSED)
        if any(answer.snapshot != self._snapshot.number for answer in answers.values()):
            changed = f"collection {self._config.collection!r} was changed while it was mined"
            raise MeshError(f"{changed}: start again, in another folder")
        rng = query_rng(self._config.seed, target, "sources")
        return select(target, answers, self._config.recipe, rng, self._judge)

    def ask(self, query: str, ranking: Ranking, hits: int) -> Answer:
        """One ranking; of words alone where the recipe looks at nothing else, which any collection can answer."""
        if self._config.recipe.needs_vectors:
            return self._client.search(self._config.collection, query, ranking, hits)
        return self._client.ask(self._config.collection, query, ranking, hits)


def mine_all(targets: Sequence[Target], miner: Miner, folder: MiningFolder) -> list[Mined]:
    """The results of all targets, in their order; those of an earlier run are taken over."""
    mined = folder.read_progress()
    waiting = [index for index in range(len(targets)) if index not in mined]
    started = time.monotonic()
    with (
        ThreadPoolExecutor(miner.concurrency) as threads,
        tqdm(total=len(targets), initial=len(mined), unit="query", desc="mine") as bar,
    ):
        for batch in batches(waiting, BATCH_QUERIES):
            found = list(threads.map(miner.mine_query, [targets[index] for index in batch]))
            folder.add_progress(zip(batch, found, strict=True))
            mined.update(zip(batch, found, strict=True))
            bar.update(len(batch))
    if waiting:
        say(f"{len(waiting)} queries in {time.monotonic() - started:.0f} s")
    return [mined[index] for index in range(len(targets))]


def batches(items: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    """Consecutive parts of `size`, the last one shorter."""
    return (items[start : start + size] for start in range(0, len(items), size))


def say(message: str) -> None:
    """Progress goes to stderr; results are files."""
    print(message, file=sys.stderr)
