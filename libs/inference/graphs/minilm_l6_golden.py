"""Writes minilm_l6_golden.json: what all-MiniLM-L6-v2 must answer, computed apart from the served path.

The transformer is written out in float64 NumPy over the published `model.safetensors`, and the texts are cut
by a WordPiece written out here over `vocab.txt`: neither ONNX Runtime, nor the graph of minilm_l6.py, nor the
tokenizers library has a part in it. Serving must give the same token ids and, within the bundle's tolerance,
the same vectors.

Run with NumPy:  python minilm_l6_golden.py FOLDER_WITH_SAFETENSORS_AND_VOCAB minilm_l6_golden.json
"""

import json
import math
import pathlib
import struct
import sys
import unicodedata

import numpy as np

LAYERS, HEADS, HEAD_DIM, WIDTH = 6, 12, 32, 384
LAYER_NORM_EPSILON = 1e-12
MAX_TOKENS = 256
DIGITS = 7

TEXTS = [
    # The shortest first: its token vectors are kept as well.
    ("query", "set a deadline", True),
    ("query", "What's the naïve way to shard an index?", False),
    ("passage", "Reciprocal rank fusion adds 1 / (60 + rank) over the lists; 東京 and unbelievability too.", False),
    ("passage", "The orchestrator encodes the query once, asks every shard of both retrievers in parallel, completes "
     "the scores that one of them is missing, and fuses what it got before its deadline.", False),
    # Longer than the model reads: cut to MAX_TOKENS.
    ("passage", "Immutable segments are mapped after their checksums were compared. " * 30, False),
]


def read_weights(path):
    raw = path.read_bytes()
    header_bytes = struct.unpack("<Q", raw[:8])[0]
    weights = {}
    for name, entry in json.loads(raw[8 : 8 + header_bytes]).items():
        if name != "__metadata__" and entry["dtype"] == "F32":
            begin, end = (8 + header_bytes + offset for offset in entry["data_offsets"])
            weights[name] = np.frombuffer(raw[begin:end], "<f4").reshape(entry["shape"]).astype(np.float64)
    return weights


def is_cjk(char):
    code = ord(char)
    return any(low <= code <= high for low, high in ((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2FA1F), (0xF900, 0xFAFF)))


def is_punctuation(char):
    ascii_symbol = 33 <= ord(char) <= 126 and not char.isalnum()
    return ascii_symbol or unicodedata.category(char).startswith("P")


def words(text):
    """Lowercased, without accents, split at spaces, punctuation and ideographs."""
    plain = (c for c in unicodedata.normalize("NFD", text.lower()) if unicodedata.category(c) != "Mn")
    return "".join(f" {c} " if is_cjk(c) or is_punctuation(c) else c for c in plain).split()


def word_pieces(word, vocabulary):
    """The longest known piece first; an unknown rest makes the whole word unknown."""
    pieces, start = [], 0
    while start < len(word):
        prefix = "##" if start else ""
        end = next((e for e in range(len(word), start, -1) if prefix + word[start:e] in vocabulary), None)
        if end is None:
            return [vocabulary["[UNK]"]]
        pieces.append(vocabulary[prefix + word[start:end]])
        start = end
    return pieces


def tokenize(text, vocabulary):
    pieces = [piece for word in words(text) for piece in word_pieces(word, vocabulary)]
    return [vocabulary["[CLS]"], *pieces[: MAX_TOKENS - 2], vocabulary["[SEP]"]]


def linear(x, weights, name):
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def layer_norm(x, weights, name):
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + LAYER_NORM_EPSILON)
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def gelu(x):
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def attention(x, weights, name):
    split = lambda part: linear(x, weights, f"{name}.self.{part}").reshape(-1, HEADS, HEAD_DIM).transpose(1, 0, 2)
    query, key, value = split("query"), split("key"), split("value")
    mixed = softmax(query @ key.transpose(0, 2, 1) / math.sqrt(HEAD_DIM)) @ value
    return linear(mixed.transpose(1, 0, 2).reshape(-1, WIDTH), weights, f"{name}.output.dense")


def token_states(token_ids, weights):
    words_, places, kinds = (weights[f"embeddings.{n}_embeddings.weight"] for n in ("word", "position", "token_type"))
    x = layer_norm(words_[token_ids] + places[: len(token_ids)] + kinds[0], weights, "embeddings.LayerNorm")
    for index in range(LAYERS):
        name = f"encoder.layer.{index}"
        x = layer_norm(x + attention(x, weights, f"{name}.attention"), weights, f"{name}.attention.output.LayerNorm")
        inner = gelu(linear(x, weights, f"{name}.intermediate.dense"))
        x = layer_norm(x + linear(inner, weights, f"{name}.output.dense"), weights, f"{name}.output.LayerNorm")
    return x


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def rounded(x):
    return [round(float(value), DIGITS) for value in x.ravel()]


def golden(task, text, with_tokens, weights, vocabulary):
    token_ids = tokenize(text, vocabulary)
    states = token_states(token_ids, weights)
    entry = {"task": task, "text": text, "token_ids": token_ids, "vector": rounded(unit(states.mean(0)))}
    return {**entry, "token_vectors": rounded(unit(states))} if with_tokens else entry


def main(folder, out):
    vocabulary = {token: i for i, token in enumerate((folder / "vocab.txt").read_text("utf-8").split("\n"))}
    weights = read_weights(folder / "model.safetensors")
    entries = [json.dumps(golden(*text, weights, vocabulary), ensure_ascii=False, separators=(",", ":")) for text in TEXTS]
    origin = "float64 NumPy over the published weights, WordPiece written out: minilm_l6_golden.py"
    out.write_text(f'{{"origin":{json.dumps(origin)},"entries":[\n' + ",\n".join(entries) + "\n]}\n", "utf-8")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
