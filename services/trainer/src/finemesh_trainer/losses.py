"""Losses over scores and vectors that are computed already. What sentence-transformers has is taken from it.

It lacks a weight for every example, which corrected clicks need; so the losses that take one are written here. Its
list loss also gives a list with one positive the target softmax(1, 0, …), of which the positive has .28 in a list of
eight; here the positive has all of it.
"""

import torch
from sentence_transformers.sentence_transformer.losses import (
    BatchAllTripletLoss,
    BatchHardSoftMarginTripletLoss,
    BatchHardTripletLoss,
    BatchHardTripletLossDistanceFunction,
    BatchSemiHardTripletLoss,
    TripletDistanceMetric,
    TripletLoss,
)
from torch import Tensor
from torch.nn import functional

BATCH_TRIPLETS = {
    "batch_hard_triplet": BatchHardTripletLoss,
    "batch_semi_hard_triplet": BatchSemiHardTripletLoss,
    "batch_all_triplet": BatchAllTripletLoss,
    "batch_hard_soft_margin_triplet": BatchHardSoftMarginTripletLoss,
}


def listwise_softmax(scores: Tensor, weights: Tensor) -> Tensor:
    """`-log softmax(scores)[positive]`, as ListNet with one relevant passage (Cao et al. 2007).

    Args:
        scores: [lists, candidates], the positive first.
        weights: [lists].
    """
    losses = scores.logsumexp(dim=1) - scores[:, 0]
    return weighted_mean(losses, weights)


def kl_divergence(scores: Tensor, teacher: Tensor, weights: Tensor, temperature: float) -> Tensor:
    """`KL(softmax(teacher / T) ‖ softmax(scores / T)) · T²` per list (Hinton et al. 2015, arXiv 1503.02531).

    Args:
        scores: [lists, candidates].
        teacher: [lists, candidates], of the same candidates.
        weights: [lists].
    """
    log_student = functional.log_softmax(scores / temperature, dim=1)
    log_teacher = functional.log_softmax(teacher / temperature, dim=1)
    losses = functional.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(dim=1)
    return weighted_mean(losses, weights) * temperature**2


def margin_mse(scores: Tensor, teacher: Tensor, weights: Tensor) -> Tensor:
    """The squared error of the margins of the positive over each negative (Hofstätter et al. 2020, arXiv 2010.02666).

    Args:
        scores: [lists, candidates], the positive first.
        teacher: [lists, candidates], of the same candidates.
        weights: [lists].
    """
    margins, teacher_margins = scores[:, :1] - scores[:, 1:], teacher[:, :1] - teacher[:, 1:]
    return weighted_mean((margins - teacher_margins).square().mean(dim=1), weights)


def weighted_mean(losses: Tensor, weights: Tensor) -> Tensor:
    """The mean over the examples, each as often as its weight says."""
    return torch.dot(losses, weights) / weights.sum()


def contrastive(scores: Tensor, positives: Tensor, excluded: Tensor, weights: Tensor) -> Tensor:
    """`-log softmax(scores)[positive]` over all of a batch's passages (InfoNCE; van den Oord et al. 2018).

    As sentence-transformers' multiple-negatives ranking, with weights, for MaxSim as for cosines, and without the
    passages that are an answer themselves.

    Args:
        scores: [queries, passages].
        positives: [queries], the index of each query's positive.
        excluded: [queries, passages], true for passages that count neither as positive nor as negative.
        weights: [queries].
    """
    kept = scores.masked_fill(excluded, -torch.inf)
    losses = kept.logsumexp(dim=1) - scores.gather(1, positives.unsqueeze(1)).squeeze(1)
    return weighted_mean(losses, weights)


def maxsim(queries: Tensor, passages: Tensor, passage_mask: Tensor) -> Tensor:
    """The sum over a query's tokens of the best product with a passage's (Khattab and Zaharia 2020, arXiv 2004.12832).

    Args:
        queries: [queries, query tokens, width], zeros where there is padding, which then adds nothing.
        passages: [passages, passage tokens, width].
        passage_mask: [passages, passage tokens], true for tokens.

    Returns:
        [queries, passages].
    """
    products = torch.einsum("qiw,pjw->qpij", queries, passages)
    best = products.masked_fill(~passage_mask[None, :, None, :], -torch.inf).amax(dim=3)
    real = queries.abs().sum(dim=2) > 0
    return (best * real[:, None, :]).sum(dim=2)


def triplet(kind: str, margin: float, queries: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
    """A triplet loss of sentence-transformers, over cosine distances.

    Args:
        queries, positives: [examples, width].
        negatives: [examples, negatives, width]; `triplet` takes each, the others find theirs in the batch.
    """
    if kind == "triplet":
        count = negatives.shape[1]
        loss = TripletLoss(None, TripletDistanceMetric.COSINE, margin)
        repeated = [vectors.repeat_interleave(count, dim=0) for vectors in (queries, positives)]
        return loss.compute_loss_from_embeddings([*repeated, negatives.flatten(0, 1)], None)
    distance = BatchHardTripletLossDistanceFunction.cosine_distance
    loss = BATCH_TRIPLETS[kind](None, distance, *([] if kind == "batch_hard_soft_margin_triplet" else [margin]))
    labels = torch.arange(len(queries), device=queries.device).repeat(2)
    return loss.compute_loss_from_embeddings([torch.cat([queries, positives])], labels)
