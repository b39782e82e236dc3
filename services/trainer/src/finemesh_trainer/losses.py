"""What sentence-transformers lacks: losses over scored lists with a weight for every example.

Its own list losses take no weights and give a list with one positive the target softmax(1, 0, …), of which the
positive has .28 in a list of eight; here the positive has all of it.
"""

import torch
from torch import Tensor
from torch.nn import functional


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
