"""The cross-encoder: a query and a passage read together give one logit."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.models.bert.modeling_bert import BertAttention, BertLayer

from finemesh_trainer.config import CrossEncoderRun
from finemesh_trainer.models.adapters import add_adapters
from finemesh_trainer.models.base import freeze_all_but_layers, load_base, load_tokenizer
from finemesh_trainer.models.exact_match import MARKED_SEGMENTS, PLAIN_SEGMENTS, PairIds, PairTokenizer

SCORE_DEVIATION = 0.02
"""Of the head's first weights, as BERT initialises."""


class CrossEncoder(nn.Module):
    """BERT over a pair; the logit is a linear function of the first token's last state.

    The last layer is computed for the first token alone, which looks at all the others: most of that layer is saved,
    of three layers a quarter of the whole.
    """

    def __init__(self, run: CrossEncoderRun) -> None:
        super().__init__()
        self.run = run
        pairs = run.pairs
        tokenizer = load_tokenizer(run.base.folder)
        self.tokenizer = PairTokenizer(tokenizer, pairs.max_tokens, pairs.max_query_tokens, pairs.mark_exact_matches)
        segments = MARKED_SEGMENTS if pairs.mark_exact_matches else PLAIN_SEGMENTS
        self.bert = load_base(run.base, segments, run.dropout)
        self.dropout = nn.Dropout(run.dropout)
        self.score = nn.Linear(self.bert.config.hidden_size, 1)
        nn.init.normal_(self.score.weight, std=SCORE_DEVIATION)
        nn.init.zeros_(self.score.bias)
        self.pairs_per_forward = pairs.pairs_per_forward
        if run.trained != "all":
            freeze_all_but_layers(self.bert)
        if run.adapters:
            add_adapters(self.bert, run.adapters.rank, run.adapters.scale)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        """Logits [batch] of inputs [batch, tokens]."""
        states = self.bert.embeddings(input_ids, token_type_ids)
        real = attention_mask.bool()[:, None, None, :]
        *layers, last = self.bert.encoder.layer
        for layer in layers:
            states = run_layer(layer, states, states, real)
        first = run_layer(last, states[:, :1], states, real)
        return self.score(self.dropout(first)).flatten()

    def score_pairs(self, pairs: Sequence[PairIds]) -> Tensor:
        """Logits [pairs], in their order. Pairs of like length go through the model together."""
        by_length = sorted(range(len(pairs)), key=lambda index: len(pairs[index].ids))
        chunks = [by_length[i : i + self.pairs_per_forward] for i in range(0, len(pairs), self.pairs_per_forward)]
        logits = torch.cat([self(*padded([pairs[index] for index in chunk], self.device)) for chunk in chunks])
        return logits[torch.tensor(by_length, device=self.device).argsort()]

    def score_lists(self, queries: Sequence[str], passages: Sequence[Sequence[str]]) -> Tensor:
        """Logits [queries, passages] of lists that are equally long."""
        pairs = [pair for query, texts in zip(queries, passages, strict=True) for pair in self.encode(query, texts)]
        return self.score_pairs(pairs).view(len(queries), -1)

    def encode(self, query: str, passages: Sequence[str]) -> list[PairIds]:
        """Token and segment ids of a query with each passage."""
        return self.tokenizer.encode(query, passages)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.score.weight.device


def run_layer(layer: BertLayer, asking: Tensor, states: Tensor, real: Tensor) -> Tensor:
    """A layer's output for the tokens in `asking`, [batch, asking, width], which look at all real ones of `states`."""
    context = attend(layer.attention, asking, states, real)
    attended = layer.attention.output(context, asking)
    return layer.output(layer.intermediate(attended), attended)


def attend(attention: BertAttention, asking: Tensor, states: Tensor, real: Tensor) -> Tensor:
    """The heads' contexts side by side, [batch, asking, width]; `real` is [batch, 1, 1, tokens]."""
    own = attention.self
    heads = own.num_attention_heads
    query, key, value = (
        projection(of).unflatten(-1, (heads, -1)).transpose(1, 2)
        for projection, of in ((own.query, asking), (own.key, states), (own.value, states))
    )
    dropped = own.dropout.p if attention.training else 0.0
    context = functional.scaled_dot_product_attention(query, key, value, attn_mask=real, dropout_p=dropped)
    return context.transpose(1, 2).flatten(2)


def padded(pairs: Sequence[PairIds], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids, attention mask and segment ids, each [pairs, tokens of the longest]; padding is 0 in all three."""
    tokens = max(len(pair.ids) for pair in pairs)
    ids, mask, segments = torch.zeros(3, len(pairs), tokens, dtype=torch.long)
    for row, pair in enumerate(pairs):
        length = len(pair.ids)
        ids[row, :length] = torch.tensor(pair.ids)
        mask[row, :length] = 1
        segments[row, :length] = torch.tensor(pair.segments)
    return ids.to(device), mask.to(device), segments.to(device)
