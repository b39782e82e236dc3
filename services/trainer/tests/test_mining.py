"""Mining: what is a negative, what is drawn, and that a broken-off run ends as a whole one does."""

import json
from pathlib import Path
from random import Random

import pytest
from fake_mesh import Document, FakeMesh, compile_contract
from pydantic import ValidationError

from finemesh_trainer.config import CrossEncoderRun, read_config
from finemesh_trainer.data.examples import Example, read_examples
from finemesh_trainer.errors import ConfigError, DataError
from finemesh_trainer.mesh import Answer, Hit, MeshError, Ranking
from finemesh_trainer.mining.command import mine
from finemesh_trainer.mining.recipe import DEFAULT_FILTER, Ceiling, MiningConfig, Recipe, Source
from finemesh_trainer.mining.select import Dropped, Mined, Removed, build_targets, positive_passage, select
from finemesh_trainer.mining.vote import CrossEncoderJudge
from finemesh_trainer.rerank_task import RerankTask
from finemesh_trainer.training import Loop, seed_everything

DENSE_ONLY = {"dense": Ceiling(max_share=0.9)}
NO_FILTER: dict = {}


def hit(name: str, dense: float, sparse: float = 1.0, text: str = "") -> Hit:
    return Hit(name, 0.0, "", text or f"text of {name}", {"sparse": sparse, "dense": dense})


def source(name: str = "near", ranking: str = "dense", ranks: tuple[int, int] = (1, 10), negatives: int = 1) -> Source:
    return Source(name=name, ranking=Ranking(ranking), first_rank=ranks[0], last_rank=ranks[1], negatives=negatives)


def select_one(hits: list[Hit], recipe: Recipe, example: Example | None = None, judge=None, seed: int = 1) -> Mined:
    examples = [example or Example("q", "the positive", positive_id="p")]
    answers = {ranking: Answer(tuple(hits), 1) for ranking in Ranking}
    return select(build_targets(examples)[0], answers, recipe, Random(seed), judge)


def drawn_ids(mined: Mined) -> set[str]:
    return {negative.id for negative in mined.negatives}


def test_the_positive_is_never_drawn() -> None:
    hits = [hit("p", 1.0), hit("a", 0.1)]
    mined = select_one(hits, Recipe(sources=[source(negatives=2)], filter=NO_FILTER))
    assert drawn_ids(mined) == {"a"}
    assert mined.positive is not None and mined.positive.id == "p"
    assert mined.removed["near"] == {Removed.POSITIVE: 1}
    assert mined.positive_ranks == {"sparse": 1, "dense": 1, "hybrid": 1}


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ("The Title First part. Second part.", "The Title Second part."),
        ("First part. Second part.", "Second part."),
        ("The Title First part.", "The Title First part."),
    ],
    ids=["cut as the mesh cuts", "a title that was taken out stays out", "a sentence that was taken out stays out"],
)
def test_the_positives_passage_is_the_meshs_unless_that_says_more(own: str, expected: str) -> None:
    served = Hit("p", 0.0, "The Title", "Second part.", {"sparse": 1.0, "dense": 1.0})
    assert positive_passage(own, served) == expected


def test_other_positives_of_the_query_are_never_drawn_whatever_the_case_of_the_query() -> None:
    examples = [Example("A Query", "one", positive_id="p"), Example("a  query", "two", positive_id="other")]
    answers = {Ranking.DENSE: Answer((hit("p", 1.0), hit("other", 0.1), hit("a", 0.1)), 1)}
    recipe = Recipe(sources=[source(negatives=3)], filter=NO_FILTER)
    mined = select(build_targets(examples)[0], answers, recipe, Random(1), None)
    assert drawn_ids(mined) == {"a"}


@pytest.mark.parametrize("text", ["The  POSITIVE", "positive", "before the positive and after it"])
def test_a_document_with_the_positives_text_or_a_part_of_it_is_never_drawn(text: str) -> None:
    mined = select_one([hit("p", 1.0), hit("copy", 0.1, text=text)], Recipe(sources=[source()], filter=NO_FILTER))
    assert mined.negatives == []
    assert mined.removed["near"][Removed.SAME_TEXT] == 1


def test_a_positive_without_an_id_is_found_by_its_text() -> None:
    hits = [hit("a", 1.0), hit("x", 0.5, text="the positive")]
    mined = select_one(hits, Recipe(sources=[source()], filter=NO_FILTER), Example("q", "The positive"))
    assert mined.positive is not None and mined.positive.id == "x"
    assert drawn_ids(mined) == {"a"}


def test_a_query_whose_positive_the_mesh_does_not_find_is_dropped() -> None:
    mined = select_one([hit("a", 0.1)], Recipe(sources=[source()]))
    assert mined.dropped is Dropped.POSITIVE_NOT_FOUND


def test_one_stages_ceiling_removes_what_is_above_it() -> None:
    hits = [hit("above", 0.91), hit("p", 1.0), hit("at", 0.9), hit("below", 0.5)]
    mined = select_one(hits, Recipe(sources=[source(negatives=3)], filter=DENSE_ONLY))
    assert drawn_ids(mined) == {"at", "below"}
    assert mined.suspects == ["above"]


def test_with_two_stages_both_must_find_the_candidate_too_near() -> None:
    both = {"dense": Ceiling(max_share=0.9), "sparse": Ceiling(max_share=0.9)}
    hits = [hit("p", 1.0, 10), hit("both", 0.95, 9.5), hit("dense", 0.95, 1), hit("sparse", 0.1, 9.5)]
    mined = select_one(hits, Recipe(sources=[source(negatives=3)], filter=both))
    assert drawn_ids(mined) == {"dense", "sparse"}


@pytest.mark.parametrize(
    ("ceiling", "positive_score", "expected"),
    [
        (Ceiling(max_share=0.9), 1.0, 0.9),
        (Ceiling(min_margin=0.3), 1.0, 0.7),
        (Ceiling(max_share=0.5, min_margin=0.3), 1.0, 0.5),
        (Ceiling(max_share=0.5), -0.2, -0.2),
    ],
)
def test_the_ceiling_is_the_lower_of_share_and_margin(ceiling: Ceiling, positive_score: float, expected: float) -> None:
    assert ceiling.over(positive_score) == pytest.approx(expected)


def test_only_the_named_ranks_are_drawn_from() -> None:
    hits = [hit("p", 1.0), *(hit(f"d{rank}", 0.1) for rank in range(2, 12))]
    seen = {
        name
        for seed in range(50)
        for name in drawn_ids(select_one(hits, Recipe(sources=[source(ranks=(4, 6))], filter=NO_FILTER), seed=seed))
    }
    assert seen == {"d4", "d5", "d6"}


def test_what_one_source_lacks_is_drawn_from_the_next_and_nothing_twice() -> None:
    hits = [hit("p", 1.0), *(hit(f"d{rank}", 0.1) for rank in range(2, 9))]
    sources = [source("near", ranks=(1, 3), negatives=3), source("mid", ranks=(1, 8), negatives=2)]
    mined = select_one(hits, Recipe(sources=sources, filter=NO_FILTER))
    assert [negative.source for negative in mined.negatives] == ["near", "near", "mid", "mid", "mid"]
    assert len(drawn_ids(mined)) == 5
    assert mined.removed["mid"][Removed.REPEATED] == 2


def test_the_vote_replaces_what_it_puts_near_the_positive() -> None:
    scores = {"the positive": 5.0, "text of liked": 4.5, "text of a": 0.0, "text of b": 1.0}

    def judge(_query: str, passages: list[str]) -> list[float]:
        return [scores[passage] for passage in passages]

    recipe = Recipe(sources=[source(negatives=2)], filter=NO_FILTER, vote={"run": "unused", "margin": 1.0})
    hits = [hit("p", 1.0), hit("liked", 0.1), hit("a", 0.1), hit("b", 0.1)]
    outcomes = [select_one(hits, recipe, judge=judge, seed=seed) for seed in range(10)]
    assert all(drawn_ids(mined) == {"a", "b"} for mined in outcomes)
    assert any(mined.removed["near"][Removed.VOTED] == 1 and mined.suspects == ["liked"] for mined in outcomes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"first_rank": 5, "last_rank": 5, "negatives": 2}, "no room for 2 negatives"),
        ({"last_rank": 1001}, "less than or equal to 1000"),
        ({"name": "random"}, "taken"),
        ({"rank": 1}, "Extra inputs"),
    ],
)
def test_a_source_that_cannot_be_is_refused(change: dict, message: str) -> None:
    values = {"name": "near", "ranking": "sparse", "first_rank": 1, "last_rank": 20, "negatives": 2}
    with pytest.raises(ValidationError, match=message):
        Source(**{**values, **change})


def test_a_recipe_needs_sources_with_names_of_their_own() -> None:
    with pytest.raises(ValidationError, match="at least one"):
        Recipe(sources=[])
    with pytest.raises(ValidationError, match="names must differ"):
        Recipe(sources=[source(), source()])


DOCUMENTS = [Document(f"d{i:02}", f"passage number {i} of the collection", 40 - i, i / 40) for i in range(40)]


@pytest.fixture
def mesh(tmp_path: Path):
    with FakeMesh(compile_contract(tmp_path), list(DOCUMENTS)) as running:
        yield running


def write_pairs(folder: Path) -> Path:
    pairs = [{"query": f"query {i}", "positive": DOCUMENTS[i].text, "doc": f"d{i:02}", "qid": str(i)} for i in range(8)]
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    return path


def config(mesh: FakeMesh, folder: Path, **changes) -> MiningConfig:
    sources = [source("lexical", "sparse", (1, 10), 2), source("mid", "hybrid", (11, 40), 2)]
    values = {
        "address": mesh.address,
        "collection": "papers",
        "pairs": [write_pairs(folder)],
        "output": folder / "mined",
        "recipe": Recipe(sources=sources, random_negatives=1, filter=NO_FILTER),
        "concurrency": 3,
    }
    return MiningConfig(**{**values, **changes})


def test_a_run_gives_examples_that_read_back_and_a_manifest_that_counts_them(mesh: FakeMesh, tmp_path: Path) -> None:
    manifest = mine(config(mesh, tmp_path))
    examples = read_examples(tmp_path / "mined" / "examples.jsonl.gz")
    assert manifest["examples"] == len(examples) == 8
    assert manifest["drawn"] == {"lexical": 16, "mid": 16, "random": 8}
    assert manifest["snapshot"] == 1
    for example in examples:
        assert len(set(example.negative_ids)) == 5
        assert example.positive_id not in example.negative_ids
        assert example.group == "papers"
    assert not (tmp_path / "mined" / "progress.jsonl").exists()


def test_words_alone_are_mined_of_a_collection_without_vectors(mesh: FakeMesh, tmp_path: Path) -> None:
    mesh.has_vectors = False
    recipe = Recipe(sources=[source("lexical", "sparse", (1, 10), 2)], filter={"sparse": Ceiling(max_share=0.9)})
    manifest = mine(config(mesh, tmp_path, recipe=recipe))
    examples = read_examples(tmp_path / "mined" / "examples.jsonl.gz")
    assert manifest["drawn"]["lexical"] == sum(len(example.negative_ids) for example in examples) > 0
    judged_by_meaning = recipe.model_copy(update={"filter": DENSE_ONLY})
    with pytest.raises(MeshError, match="was indexed without vectors"):
        mine(config(mesh, tmp_path, recipe=judged_by_meaning, output=tmp_path / "other"))


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(mesh: FakeMesh, tmp_path: Path) -> None:
    outputs = []
    for name, changes in [("one", {}), ("two", {"concurrency": 1}), ("three", {"seed": 2})]:
        mine(config(mesh, tmp_path, output=tmp_path / name, **changes))
        outputs.append((tmp_path / name / "examples.jsonl.gz").read_bytes())
    assert outputs[0] == outputs[1]
    assert outputs[0] != outputs[2]


def test_a_broken_off_run_goes_on_and_ends_as_a_whole_one(
    mesh: FakeMesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finemesh_trainer.mining.command.BATCH_QUERIES", 2)
    mine(config(mesh, tmp_path, output=tmp_path / "whole"))
    mesh.searches, mesh.answers_left = 0, 9
    with pytest.raises(MeshError, match="out of answers"):
        mine(config(mesh, tmp_path))
    progress = tmp_path / "mined" / "progress.jsonl"
    assert 2 <= len(progress.read_text().splitlines()) - 1 < 8
    with progress.open("a") as file:
        file.write('{"index": 7, "cut sho')
    mesh.searches, mesh.answers_left = 0, None
    mine(config(mesh, tmp_path))
    assert mesh.searches < 16
    for name in ("examples.jsonl.gz", "manifest.json"):
        assert (tmp_path / "mined" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_finished_run_is_not_done_again_and_its_folder_takes_no_other(mesh: FakeMesh, tmp_path: Path) -> None:
    first = mine(config(mesh, tmp_path))
    mesh.searches = 0
    assert mine(config(mesh, tmp_path)) == first
    assert mesh.searches == 0
    with pytest.raises(ConfigError, match="name another folder"):
        mine(config(mesh, tmp_path, seed=2))
    mesh.snapshot = 2
    with pytest.raises(ConfigError, match="name another folder"):
        mine(config(mesh, tmp_path))


def test_a_refused_query_and_one_without_its_positive_are_dropped_and_counted(mesh: FakeMesh, tmp_path: Path) -> None:
    mesh.refused_queries = {"query 3"}
    mesh.documents = [document for document in DOCUMENTS if document.id != "d05"]
    manifest = mine(config(mesh, tmp_path))
    assert manifest["dropped"] == {Dropped.POSITIVE_NOT_FOUND: 1, Dropped.QUERY_REFUSED: 1}
    assert manifest["examples"] == 6


def test_a_limit_takes_a_seeded_sample_in_the_files_order(mesh: FakeMesh, tmp_path: Path) -> None:
    mine(config(mesh, tmp_path, limit=3))
    ids = [int(example.query_id or "") for example in read_examples(tmp_path / "mined" / "examples.jsonl.gz")]
    assert len(ids) == 3
    assert ids == sorted(ids)


def test_a_trained_cross_encoder_votes_and_its_weights_are_part_of_the_version(
    mesh: FakeMesh, tmp_path: Path, base_folder: Path
) -> None:
    versions = []
    for seed in (1, 2):
        vote = {"run": train_cross_encoder(tmp_path / f"run{seed}", base_folder, seed), "margin": 0.0}
        sources = [source("lexical", "sparse", (1, 20), 3)]
        recipe = Recipe(sources=sources, random_negatives=1, filter=NO_FILTER, vote=vote)
        manifest = mine(config(mesh, tmp_path, output=tmp_path / f"mined{seed}", recipe=recipe))
        versions.append(manifest["version"])
        assert manifest["removed"]["lexical"][Removed.VOTED] > 0
        judge = CrossEncoderJudge(vote["run"])
        for example in read_examples(tmp_path / f"mined{seed}" / "examples.jsonl.gz"):
            positive, *negatives = judge(example.query, [example.positive, *example.negatives[:-1]])
            assert all(score <= positive + 1e-5 for score in negatives)
    assert versions[0] != versions[1]


def test_a_vote_of_a_run_that_is_not_there_is_refused_before_anything_is_asked(mesh: FakeMesh, tmp_path: Path) -> None:
    recipe = Recipe(sources=[source()], vote={"run": tmp_path / "nowhere"})
    with pytest.raises(DataError, match=r"nowhere/weights.safetensors: cannot be read"):
        mine(config(mesh, tmp_path, recipe=recipe))
    assert mesh.searches == 0


def train_cross_encoder(folder: Path, base: Path, seed: int) -> Path:
    settings = {"steps": 1, "batch_size": 2, "learning_rate": 1e-3, "seed": seed, "device": "cpu"}
    values = {"name": "toy", "output": folder, "base": {"folder": base}, "data": {"train": ["unused"]}}
    pairs = {"max_tokens": 32, "max_query_tokens": 8, "negatives": 1}
    run = CrossEncoderRun.model_validate({**values, "pairs": pairs, "training": settings})
    seed_everything(seed, -1)
    Loop(run, RerankTask(run, [Example("one", "apple", ("pear",)), Example("two", "plum", ("river",))], [])).fit()
    return folder


def test_a_collection_that_changes_under_the_run_ends_it(mesh: FakeMesh, tmp_path: Path) -> None:
    mesh.snapshot = 1
    settings = config(mesh, tmp_path)
    original = mesh._describe

    def describe_then_change(request, context):
        response = original(request, context)
        mesh.snapshot = 2
        return response

    mesh._describe = describe_then_change
    mesh.__exit__()
    with mesh, pytest.raises(MeshError, match="was changed while it was mined"):
        mine(settings.model_copy(update={"address": mesh.address}))


def test_the_shipped_recipe_is_read() -> None:
    settings = read_config(Path(__file__).parents[1] / "configs" / "mine.toml", MiningConfig)
    assert settings.recipe.depths() == {Ranking.SPARSE: 20, Ranking.DENSE: 20, Ranking.HYBRID: 100}
    assert settings.recipe.filter == DEFAULT_FILTER
