"""Click logs with a known position bias: the position-based model over passages whose relevance is known."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Searcher:
    """Users who look at position k with `propensities[k]` and click what they find relevant, seeded."""

    propensities: Sequence[float]
    relevance: Mapping[str, Mapping[str, float]]
    """Probability of a click when looked at, by query and document id; 0 where a document is missing."""
    noise: float = 0.05
    """Probability of a click on what is irrelevant."""

    def answer(
        self, query: str, ranking: Sequence[str], passages: Mapping[str, str], random: np.random.Generator
    ) -> dict:
        """One line of a log."""
        shown = []
        for position, (document_id, looked_at) in enumerate(zip(ranking, self.propensities, strict=False), start=1):
            relevance = max(self.noise, self.relevance.get(query, {}).get(document_id, 0.0))
            clicked = bool(random.random() < looked_at * relevance)
            entry = {"id": document_id, "document": passages[document_id], "position": position, "clicked": clicked}
            shown.append(entry | ({"dwell_s": 30.0} if clicked else {}))
        return {"query": query, "shown": shown}


@dataclass(frozen=True)
class LinearWorld:
    """Queries with documents of a few features. Relevance follows `truth`; what is shown first follows `policy`."""

    features: dict[str, dict[str, np.ndarray]]
    relevance: dict[str, dict[str, float]]

    @classmethod
    def draw(cls, queries: int, documents: int, truth: np.ndarray, random: np.random.Generator) -> "LinearWorld":
        """Draws features from a normal distribution; the best three in ten of a query's documents are relevant."""
        features, relevance = {}, {}
        for query in range(queries):
            names = [f"q{query}d{document}" for document in range(documents)]
            drawn = random.normal(size=(documents, len(truth)))
            merit = drawn @ truth
            is_relevant = merit >= np.quantile(merit, 0.7)
            features[f"q{query}"] = dict(zip(names, drawn, strict=True))
            relevance[f"q{query}"] = dict(zip(names, np.where(is_relevant, 0.7, 0.0).tolist(), strict=True))
        return cls(features, relevance)

    def log(self, path: Path, policy: np.ndarray, propensities: Sequence[float], views: int, seed: int) -> Path:
        """Shows every query `views` times, ranked by `policy` and some noise, which moves documents about."""
        random = np.random.default_rng(seed)
        searcher = Searcher(propensities, self.relevance)
        with path.open("w") as file:
            for query, documents in self.features.items():
                passages = {name: f"passage {name}" for name in documents}
                merit = np.array([drawn @ policy for drawn in documents.values()])
                for _ in range(views):
                    order = np.argsort(-(merit + random.normal(size=len(merit))), kind="stable")
                    ranking = [list(documents)[index] for index in order]
                    file.write(json.dumps(searcher.answer(query, ranking, passages, random)) + "\n")
        return path

    def ndcg_at_10(self, weights: np.ndarray) -> float:
        """Mean nDCG@10 of the linear ranker with these weights, by true relevance."""
        return float(np.mean([self.ndcg_of(query, weights) for query in self.features]))

    def ndcg_of(self, query: str, weights: np.ndarray) -> float:
        """nDCG@10 of one query."""
        gains = np.array(list(self.relevance[query].values()))
        merit = np.array([drawn @ weights for drawn in self.features[query].values()])
        discounts = 1 / np.log2(np.arange(2, 12))
        ranked, ideal = gains[np.argsort(-merit, kind="stable")][:10], np.sort(gains)[::-1][:10]
        return float((ranked * discounts[: len(ranked)]).sum() / (ideal * discounts[: len(ideal)]).sum())
