"""The encoder's two heads, its losses together, and gradient caching."""

import random
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from finemesh_trainer.config import EncoderRun
from finemesh_trainer.data.examples import Example
from finemesh_trainer.encode_task import EncodeTask, excluded_passages, join, load_encoder, rows
from finemesh_trainer.errors import ConfigError, DataError
from finemesh_trainer.lists import CandidateList, candidate_list
from finemesh_trainer.models.encoder import token_head
from finemesh_trainer.training import Loop, read_curve

WORDS = ["shard", "index", "mesh", "deadline", "budget", "vector", "sparse", "dense", "hybrid", "score", "rank"]


def examples(count: int = 12, **fields: object) -> list[Example]:
    draw = random.Random(6)
    return [
        Example(
            " ".join(draw.sample(WORDS, 2)),
            " ".join(draw.sample(WORDS, 8)),
            (" ".join(draw.sample(WORDS, 3)),),
            **fields,
        )
        for _ in range(count)
    ]


def run_of(folder: Path, output: Path, **changes: object) -> EncoderRun:
    values = {
        "name": "toy",
        "output": output,
        "base": {"folder": folder},
        "data": {"train": ["unused.jsonl"]},
        "texts": {"max_tokens": 16},
        "token_loss": {"width": 12},
        "training": {"steps": 4, "batch_size": 4, "learning_rate": 1e-3, "checkpoint_every_steps": 2, "device": "cpu"},
    }
    return EncoderRun.model_validate(values | changes)


def gradients(task: EncodeTask, batch: list[Example]) -> tuple[float, dict[str, torch.Tensor]]:
    task.model.train()
    torch.manual_seed(9)
    loss = task.add_gradients(batch, random.Random(1))
    return loss, {name: p.grad for name, p in task.model.named_parameters() if p.grad is not None}


def test_vectors_have_unit_length_and_padding_is_zero(base_folder: Path, tmp_path: Path) -> None:
    model = EncodeTask(run_of(base_folder, tmp_path), examples(), []).model.eval()
    ids, mask = model.inputs(["mesh", "dense vector index of a mesh"])
    vectors = model(ids, mask)
    torch.testing.assert_close(vectors.sentences.norm(dim=1), torch.ones(2))
    torch.testing.assert_close(vectors.tokens.norm(dim=2), mask.float())


def test_a_text_has_the_same_vectors_alone_and_beside_a_longer_one(base_folder: Path, tmp_path: Path) -> None:
    model = EncodeTask(run_of(base_folder, tmp_path), examples(), []).model.eval()
    alone, beside = model(*model.inputs(["mesh"])), model(*model.inputs(["mesh", "dense vector index of a mesh"]))
    torch.testing.assert_close(alone.sentences[0], beside.sentences[0])
    torch.testing.assert_close(alone.tokens[0], beside.tokens[0, : alone.tokens.shape[1]])


def test_long_texts_are_cut_and_prompts_are_read(base_folder: Path, tmp_path: Path) -> None:
    texts = {"max_tokens": 8, "prompts": {"query": "query ", "passage": ""}}
    model = EncodeTask(run_of(base_folder, tmp_path, texts=texts), examples(), []).model
    assert model.inputs(["mesh " * 30])[0].shape == (1, 8)
    assert model.inputs(model.queries(["mesh"]))[0].shape == (1, 4)
    assert model.inputs(model.passages(["mesh"]))[0].shape == (1, 3)


LOSSES = [
    {"kind": "in_batch_negatives"},
    {"kind": "in_batch_negatives", "matryoshka": [8, 16]},
    {"kind": "triplet"},
    {"kind": "batch_hard_triplet"},
]


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_gradient_caching_gives_the_same_gradients(base_folder: Path, tmp_path: Path, loss: dict) -> None:
    def task(size: int | None) -> EncodeTask:
        torch.manual_seed(2)
        texts = {"max_tokens": 16, "texts_per_forward": size}
        return EncodeTask(run_of(base_folder, tmp_path, sentence_loss=loss, texts=texts), examples(), [])

    batch = examples(6)
    assert_equal_gradients(gradients(task(4), batch), gradients(task(None), batch))


def test_gradient_caching_drops_out_the_same_twice(base_folder: Path, tmp_path: Path) -> None:
    def task() -> EncodeTask:
        torch.manual_seed(2)
        texts = {"max_tokens": 16, "texts_per_forward": 5}
        return EncodeTask(run_of(base_folder, tmp_path, texts=texts, dropout=0.2), examples(), [])

    batch, by_hand, draw = examples(6), task(), random.Random(1)
    by_hand.model.train()
    lists = [candidate_list(example, by_hand.examples, 1, draw) for example in batch]
    queries, passages = by_hand.texts(lists)
    texts = [*queries, *passages]
    vectors = join([by_hand.embed(texts[i : i + 5], draw.getrandbits(63)) for i in range(0, len(texts), 5)])
    loss = by_hand.loss(rows(vectors, slice(None, 6)), rows(vectors, slice(6, None)), by_hand.targets(lists))
    loss.backward()
    expected = {name: p.grad for name, p in by_hand.model.named_parameters() if p.grad is not None}
    assert_equal_gradients(gradients(task(), batch), (loss.item(), expected))


def assert_equal_gradients(left: tuple[float, dict], right: tuple[float, dict]) -> None:
    assert left[0] == pytest.approx(right[0], abs=1e-5)
    assert left[1].keys() == right[1].keys()
    for name, gradient in right[1].items():
        torch.testing.assert_close(left[1][name], gradient, atol=1e-5, rtol=1e-4)


def test_both_losses_reach_the_whole_encoder(base_folder: Path, tmp_path: Path) -> None:
    _, reached = gradients(EncodeTask(run_of(base_folder, tmp_path), examples(), []), examples(4))
    assert {"token_head.weight", "bert.embeddings.word_embeddings.weight"} <= reached.keys()
    assert all(gradient.abs().sum() > 0 for name, gradient in reached.items() if "key.bias" not in name)


def test_training_makes_the_held_out_rank_better(base_folder: Path, tmp_path: Path) -> None:
    training = {"steps": 40, "batch_size": 8, "learning_rate": 3e-3, "checkpoint_every_steps": 20, "device": "cpu"}
    task = EncodeTask(run_of(base_folder, tmp_path, training=training), examples(16), examples(16))
    with torch.no_grad():
        before = task.measures()
    torch.manual_seed(0)
    assert Loop(run_of(base_folder, tmp_path, training=training), task).fit().finished
    after = read_curve(tmp_path / "curve.jsonl")[-1]
    assert after["held_out_mrr"] > before["held_out_mrr"] + 0.2
    assert after["held_out_maxsim_mrr"] > before["held_out_maxsim_mrr"]


def test_an_equal_query_or_passage_is_no_negative() -> None:
    lists = [
        CandidateList("q", ["a", "n"], 1.0, None),
        CandidateList("q", ["b", "a"], 1.0, None),
        CandidateList("other", ["a", "n"], 1.0, None),
    ]
    # Passages: a b a | n a n. The own positive is never excluded.
    expected = [[0, 1, 1, 0, 1, 0], [1, 0, 1, 0, 1, 0], [1, 0, 0, 0, 1, 0]]
    assert excluded_passages(lists).int().tolist() == expected


def test_distillation_needs_scores_and_triplets_equal_weights(base_folder: Path, tmp_path: Path) -> None:
    run = run_of(base_folder, tmp_path, sentence_loss={"kind": "kl"})
    with pytest.raises(DataError, match="needs a positive_score and 1 negative_scores"):
        EncodeTask(run, examples(), [])
    task = EncodeTask(run, examples(positive_score=3.0, negative_scores=(1.0,)), [])
    assert gradients(task, task.examples[:4])[0] > 0
    with pytest.raises(DataError, match="the loss triplet takes no weights"):
        EncodeTask(run_of(base_folder, tmp_path, sentence_loss={"kind": "triplet"}), examples(weight=2.0), [])


def test_layers_that_are_not_there_are_refused(base_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"base.layers: is \[0, 5\]"):
        EncodeTask(run_of(base_folder, tmp_path, base={"folder": base_folder, "layers": [0, 5]}), examples(), [])


def test_the_token_head_starts_as_the_projection_that_keeps_most_of_the_base(base_folder: Path, tmp_path: Path) -> None:
    task = EncodeTask(run_of(base_folder, tmp_path), examples(40), [])
    model, texts = task.model.eval(), [example.positive for example in examples(40)]
    with torch.no_grad():
        states = functional.normalize(model.token_states(*model.inputs(texts)), dim=-1)
    products = states @ states.T

    def distance(head: torch.Tensor) -> float:
        narrow = states @ head.T
        return (narrow @ narrow.T - products).norm().item()

    started = distance(model.token_head.weight.detach())
    assert all(started < distance(token_head(32, 12).weight.detach()) for _ in range(5))


def test_texts_may_be_cut_shorter_in_training_than_in_serving(base_folder: Path, tmp_path: Path) -> None:
    run = run_of(base_folder, tmp_path, texts={"max_tokens": 16, "training_max_tokens": 8})
    task = EncodeTask(run, examples(), [])
    assert task.model.inputs(["mesh " * 30])[0].shape == (1, 8)
    Loop(run, task).fit()
    assert load_encoder(tmp_path).inputs(["mesh " * 30])[0].shape == (1, 16)
