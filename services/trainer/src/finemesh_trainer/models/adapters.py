"""Low-rank adapters over frozen matrices: `W + scale · B·A` (LoRA, Hu et al. 2021, arXiv 2106.09685).

What is trained and carried is small: for MiniLM's matrices of 384 by 384 and 384 by 1536 at rank 32, 221,184 numbers a
layer instead of 1,769,472. Biases, layer norms, the segment table and the heads are trained as they are.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertModel


class LowRankLinear(nn.Module):
    """A linear layer with a frozen matrix, a trained bias and a trained low-rank difference.

    `down` is [rank, inputs], `up` is [outputs, rank] and starts at zero, so that training starts from the base.
    """

    def __init__(self, linear: nn.Linear, rank: int, scale: float) -> None:
        super().__init__()
        self.weight = linear.weight.requires_grad_(False)
        self.bias = linear.bias
        self.scale = scale
        self.down = nn.Parameter(torch.empty(rank, linear.in_features))
        self.up = nn.Parameter(torch.zeros(linear.out_features, rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, inputs: Tensor) -> Tensor:
        """[…, inputs] to […, outputs]."""
        outputs = functional.linear(inputs, self.weight, self.bias)
        return outputs + functional.linear(functional.linear(inputs, self.down), self.scale * self.up)

    def merged(self) -> Tensor:
        """The one matrix that does the same, [outputs, inputs]."""
        return self.weight + self.scale * (self.up @ self.down)


def add_adapters(model: BertModel, rank: int, scale: float) -> None:
    """Puts an adapter on every matrix of every layer."""
    for module in list(model.encoder.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear):
                setattr(module, name, LowRankLinear(child, rank, scale))


def merged_state(model: nn.Module) -> dict[str, Tensor]:
    """The weights of a model with its adapters folded in: those that it would have without adapters."""
    state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    for name, module in model.named_modules():
        if isinstance(module, LowRankLinear):
            state[f"{name}.weight"] = module.merged().detach()
            del state[f"{name}.down"], state[f"{name}.up"]
    return state


def adapter_state(model: nn.Module) -> dict[str, Tensor]:
    """The weights of a model with its adapters apart: `up`, `down` and `scale` beside each frozen `weight`."""
    state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    scales = {f"{n}.scale": torch.tensor(m.scale) for n, m in model.named_modules() if isinstance(m, LowRankLinear)}
    return state | scales
