"""The pretrained BERT that a run starts from, and its tokenizer."""

import hashlib
import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import BertConfig, BertModel

from finemesh_trainer.config import Base
from finemesh_trainer.errors import ConfigError

WEIGHTS_FILE, TOKENIZER_FILE, CONFIG_FILE = "model.safetensors", "tokenizer.json", "config.json"
MINILM_HEAD_WIDTH = 32
"""MiniLM's attention heads; weights do not tell how wide heads are, and a pulled bundle carries no config.json."""
SEGMENTS = "embeddings.token_type_embeddings.weight"


def load_base(base: Base, segments: int, dropout: float) -> BertModel:
    """The model without its pooler, with the layers that are kept and a segment table of `segments` rows.

    New segment rows start as copies of the old ones: row 2 of row 0, row 3 of row 1.

    Raises:
        ConfigError: when the folder holds no BERT, or not these layers.
    """
    weights = read_weights(base.folder)
    config = bert_config(base.folder, weights)
    kept = base.layers or list(range(config.num_hidden_layers))
    if not set(kept) <= set(range(config.num_hidden_layers)):
        raise ConfigError([f"base.layers: is {kept}; {base.folder} has 0 to {config.num_hidden_layers - 1}"])
    config.num_hidden_layers, config.type_vocab_size = len(kept), segments
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = dropout
    table = weights[SEGMENTS]
    weights[SEGMENTS] = torch.stack([table[row % len(table)] for row in range(segments)])
    model = BertModel(config, add_pooling_layer=False)
    model.load_state_dict(with_layers(weights, kept))
    return model


def with_layers(weights: dict[str, torch.Tensor], kept: list[int]) -> dict[str, torch.Tensor]:
    """The embeddings, and the kept layers under their new numbers."""
    chosen = {name: tensor for name, tensor in weights.items() if name.startswith("embeddings.")}
    for new, old in enumerate(kept):
        prefix = f"encoder.layer.{old}."
        layer = {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
        chosen |= {f"encoder.layer.{new}.{name}": tensor for name, tensor in layer.items()}
    return chosen


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of the model file, under the names of a bare BERT."""
    path = folder / WEIGHTS_FILE
    try:
        tensors = load_file(path)
    except Exception as error:
        raise ConfigError([f"base.folder: {path} cannot be read: {error}"]) from error
    weights = {name.removeprefix("bert."): tensor for name, tensor in tensors.items()}
    weights.pop("embeddings.position_ids", None)
    if SEGMENTS not in weights:
        raise ConfigError([f"base.folder: {path} holds no BERT: {SEGMENTS} is missing"])
    return weights


def bert_config(folder: Path, weights: dict[str, torch.Tensor]) -> BertConfig:
    """The folder's own configuration, or else what the shapes of MiniLM's weights say."""
    path = folder / CONFIG_FILE
    if path.is_file() and "model_type" in (settings := json.loads(path.read_text("utf-8"))):
        return BertConfig(**settings)
    words, width = weights["embeddings.word_embeddings.weight"].shape
    return BertConfig(
        vocab_size=words,
        hidden_size=width,
        num_hidden_layers=1 + max(int(name.split(".")[2]) for name in weights if name.startswith("encoder.layer.")),
        num_attention_heads=width // MINILM_HEAD_WIDTH,
        intermediate_size=len(weights["encoder.layer.0.intermediate.dense.weight"]),
        max_position_embeddings=len(weights["embeddings.position_embeddings.weight"]),
    )


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer, without the truncation and padding that its file may ship."""
    path = folder / TOKENIZER_FILE
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:
        raise ConfigError([f"base.folder: {path} cannot be read: {error}"]) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def fingerprint(folder: Path) -> str:
    """Hex SHA-256 of the weights and the tokenizer: what a run's weights belong to."""
    digest = hashlib.sha256()
    for name in (WEIGHTS_FILE, TOKENIZER_FILE):
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()


def freeze_all_but_layers(model: BertModel) -> None:
    """Leaves the word and position embeddings as they are."""
    model.embeddings.word_embeddings.weight.requires_grad_(False)
    model.embeddings.position_embeddings.weight.requires_grad_(False)
