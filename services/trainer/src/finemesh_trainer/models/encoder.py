"""The encoder: one BERT gives a text's sentence vector and, through a narrow linear head, its token vectors."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional

from finemesh_trainer.config import EncoderRun
from finemesh_trainer.models.adapters import add_adapters
from finemesh_trainer.models.base import freeze_all_but_layers, load_base, load_tokenizer

SEGMENTS = 2


@dataclass(frozen=True)
class Vectors:
    """Of a batch of texts, all of unit length.

    `sentences` is [texts, width]; `tokens` [texts, tokens, token width] with zeros behind a text's end, or None for an
    encoder without a token head.
    """

    sentences: Tensor
    tokens: Tensor | None


class Encoder(nn.Module):
    """Sentence vectors are the mean of the last states; token vectors a linear function of each."""

    def __init__(self, run: EncoderRun) -> None:
        super().__init__()
        self.run = run
        self.tokenizer = truncating(load_tokenizer(run.base.folder), run.texts.max_tokens)
        self.bert = load_base(run.base, SEGMENTS, run.dropout)
        self.token_head = token_head(self.bert.config.hidden_size, run.token_loss.width) if run.token_loss else None
        if run.trained != "all":
            freeze_all_but_layers(self.bert)
        if run.adapters:
            add_adapters(self.bert, run.adapters.rank, run.adapters.scale)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Vectors:
        """Vectors of inputs [texts, tokens]."""
        states = self.bert(input_ids, attention_mask).last_hidden_state
        weights = attention_mask.unsqueeze(-1).to(states.dtype)
        sentences = functional.normalize((states * weights).sum(dim=1) / weights.sum(dim=1), dim=-1)
        if self.token_head is None:
            return Vectors(sentences, None)
        return Vectors(sentences, functional.normalize(self.token_head(states), dim=-1) * weights)

    def token_states(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The last states of all tokens of inputs [texts, tokens], without padding: [tokens of all, width]."""
        return self.bert(input_ids, attention_mask).last_hidden_state[attention_mask > 0]

    def inputs(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token ids and attention mask, each [texts, tokens of the longest], of texts with their prompts."""
        encoded = [encoding.ids for encoding in self.tokenizer.encode_batch(list(texts))]
        ids, mask = torch.zeros(2, len(encoded), max(map(len, encoded)), dtype=torch.long)
        for row, token_ids in enumerate(encoded):
            ids[row, : len(token_ids)] = torch.tensor(token_ids)
            mask[row, : len(token_ids)] = 1
        device = self.bert.device
        return ids.to(device), mask.to(device)

    def queries(self, texts: Sequence[str]) -> list[str]:
        """Queries as the model reads them."""
        return [self.run.texts.prompts.query + text for text in texts]

    def passages(self, texts: Sequence[str]) -> list[str]:
        """Passages as the model reads them."""
        return [self.run.texts.prompts.passage + text for text in texts]


def truncating(tokenizer: Tokenizer, max_tokens: int) -> Tokenizer:
    """The tokenizer with a limit."""
    tokenizer.enable_truncation(max_tokens)
    return tokenizer


def token_head(states: int, width: int) -> nn.Linear:
    """A head that starts as a random orthogonal projection; a training starts it from `principal_directions`."""
    head = nn.Linear(states, width, bias=False)
    nn.init.orthogonal_(head.weight)
    return head


def principal_directions(states: Tensor, width: int) -> Tensor:
    """The directions, [width, states' width], that keep most of the products of states [count, states' width].

    The first eigenvectors of the second moments of the states at unit length, heaviest first: not centred, since
    products are what MaxSim compares.
    """
    unit = functional.normalize(states, dim=-1)
    _, vectors = torch.linalg.eigh(unit.T @ unit)
    return vectors.flip(1)[:, :width].T
