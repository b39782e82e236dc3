"""Weights between a base and what a run made of it (WiSE-FT: Wortsman et al. 2022, arXiv 2109.01903).

`W = W_base + s · (W_run - W_base)`: with s below 1 much of what was learnt of one corpus stays, and less of what the
base knew of others is lost. An adapter's difference is `B·A`, so `B` alone is scaled. What the base has not, the heads,
stays as it was trained.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from finemesh_trainer.card import CARD_FILE
from finemesh_trainer.errors import ConfigError
from finemesh_trainer.files import new_folder
from finemesh_trainer.models.base import load_base
from finemesh_trainer.runs import load_model
from finemesh_trainer.training import SETTINGS_FILE, TRAINED_FILE, trained_weights


def interpolate(folder: Path, output: Path, strength: float) -> None:
    """Writes the run in `folder` at a strength as the run's folder `output`, without a checkpoint to go on from.

    Raises:
        ConfigError: when there is no run, something at the place of the output, or no such strength.
    """
    if not 0 < strength <= 1:
        raise ConfigError([f"--strength: is {strength:g}; it must be above 0 and at most 1"])
    model = load_model(folder)
    scale_difference(model, strength)
    settings = json.loads((folder / SETTINGS_FILE).read_text("utf-8")) | {"output": str(output)}
    card = (folder / CARD_FILE).read_text("utf-8")
    with new_folder(output) as staging:
        save_file(trained_weights(model), staging / TRAINED_FILE)
        (staging / SETTINGS_FILE).write_text(json.dumps(settings, indent=1) + "\n", "utf-8")
        (staging / CARD_FILE).write_text(f"{card}\n{strength_section(strength)}\n", "utf-8")


@torch.no_grad()
def scale_difference(model: nn.Module, strength: float) -> None:
    """Takes the trained weights of a model's BERT back towards the base's, in place."""
    base = load_base(model.run.base, model.bert.config.type_vocab_size, 0.0).state_dict()
    for name, parameter in model.bert.named_parameters():
        if name in base and parameter.requires_grad:
            parameter.copy_(torch.lerp(base[name], parameter, strength))
        elif name.endswith(".up"):
            parameter.mul_(strength)


def strength_section(strength: float) -> str:
    """What the model card says of it."""
    formula = f"W_base + {strength:g} (W_trained - W_base)"
    return f"## Strength\n\n{formula}, the heads as they were trained. The measures above are those of strength 1."
