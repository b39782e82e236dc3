"""The rankings that PyTorch gives in f32."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from finemesh_trainer.config import Base, Data, EncoderRun, Texts, Training
from finemesh_trainer.data.beir import Document
from finemesh_trainer.heads.head import Head
from finemesh_trainer.heads.measure import blended
from finemesh_trainer.models.base import load_tokenizer
from finemesh_trainer.models.cross_encoder import CrossEncoder
from finemesh_trainer.models.encoder import Encoder
from finemesh_trainer.parity.passages import PassageSize, passages_of

TEXTS_PER_FORWARD = 16
DEPTH = 100


def frozen_encoder(folder: Path, max_tokens: int) -> Encoder:
    """A pretrained encoder as it is: the mean of its last states, no prompts."""
    unused = Training(steps=1, batch_size=1, learning_rate=1.0)
    base, data, texts = Base(folder=folder), Data(train=[folder]), Texts(max_tokens=max_tokens)
    return Encoder(EncoderRun(name="frozen", output=folder, base=base, data=data, texts=texts, training=unused)).eval()


def encoder_rankings(
    model: Encoder, documents: Sequence[Document], queries: dict[str, str], size: PassageSize
) -> dict[str, list[str]]:
    """The best documents of each query: every passage is scored, and a document has its best one's score."""
    whole_texts = load_tokenizer(model.run.base.folder)
    cut = [passages_of(document, whole_texts, size) for document in documents]
    owners = torch.tensor([index for index, passages in enumerate(cut) for _ in passages])
    texts = model.passages([passage for passages in cut for passage in passages])
    scores = sentence_vectors(model, model.queries(list(queries.values()))) @ sentence_vectors(model, texts).T
    best = torch.full((len(queries), len(documents)), -torch.inf)
    best = best.scatter_reduce(1, owners.expand(len(queries), -1), scores, "amax")
    ids = [document.document_id for document in documents]
    return {query: best_documents(row.numpy(), ids) for query, row in zip(queries, best, strict=True)}


def best_documents(scores: np.ndarray, ids: Sequence[str]) -> list[str]:
    """The first `DEPTH`, equal scores by id."""
    order = sorted(range(len(ids)), key=lambda index: (-scores[index], ids[index]))
    return [ids[index] for index in order[:DEPTH]]


def sentence_vectors(model: Encoder, texts: Sequence[str]) -> Tensor:
    """[texts, width], texts of like length together."""
    by_length = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    parts = []
    with torch.inference_mode():
        for start in tqdm(range(0, len(texts), TEXTS_PER_FORWARD), unit="batch", desc="PyTorch"):
            chosen = [texts[index] for index in by_length[start : start + TEXTS_PER_FORWARD]]
            parts.append(model(*model.inputs(chosen)).sentences)
    return torch.cat(parts)[torch.tensor(by_length).argsort()]


def cross_encoder_rankings(model: CrossEncoder, heads: Sequence[Head], weight: float) -> dict[str, list[str]]:
    """Each head in the order of its own scores blended with the cross-encoder's, as the mesh blends them."""
    rankings = {}
    for head in tqdm(heads, unit="query", desc="PyTorch"):
        with torch.inference_mode():
            logits = model.score_lists([head.query], [head.passages])[0].numpy()
        rankings[head.query_id] = blended(head, logits, weight)
    return rankings
