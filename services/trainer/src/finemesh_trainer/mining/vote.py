"""A trained cross-encoder as a second opinion on what is a negative."""

from collections.abc import Sequence
from pathlib import Path

import torch

from finemesh_trainer.rerank_task import load_cross_encoder
from finemesh_trainer.training import TRAINED_FILE


def weights_path(run: Path) -> Path:
    """The file that decides how a finished run votes."""
    return run / TRAINED_FILE


class CrossEncoderJudge:
    """Scores passages with the cross-encoder of a finished run; safe to call from many threads."""

    def __init__(self, run: Path) -> None:
        self._model = load_cross_encoder(run)

    def __call__(self, query: str, passages: Sequence[str]) -> list[float]:
        """One logit for each passage."""
        with torch.no_grad():
            return self._model.score_lists([query], [passages])[0].tolist()
