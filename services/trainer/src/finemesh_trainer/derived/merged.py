"""A run's BERT as a pretrained one: adapters folded in, heads left away, files as a pulled bundle has them."""

import shutil
from pathlib import Path

from safetensors.torch import save_file

from finemesh_trainer.files import new_folder
from finemesh_trainer.models.adapters import merged_state
from finemesh_trainer.models.base import TOKENIZER_FILE, WEIGHTS_FILE
from finemesh_trainer.runs import load_model


def merge(folder: Path, output: Path) -> None:
    """Writes `output`, which can be the `base.folder` of other runs: a student's start is its teacher's layers.

    Raises:
        ConfigError: when there is no run, or something at the place of the output.
    """
    model = load_model(folder)
    weights = {name: tensor.contiguous() for name, tensor in merged_state(model.bert).items()}
    with new_folder(output) as staging:
        save_file(weights, staging / WEIGHTS_FILE)
        model.bert.config.save_pretrained(staging)
        shutil.copyfile(model.run.base.folder / TOKENIZER_FILE, staging / TOKENIZER_FILE)
