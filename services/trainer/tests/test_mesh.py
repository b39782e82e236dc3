"""The client against a server with the repository's own contract."""

from pathlib import Path

import grpc
import pytest
from fake_mesh import Document, FakeMesh, compile_contract

from finemesh_trainer.mesh import MeshError, QueryRefused, Ranking, SearchClient

DOCUMENTS = [Document("a", "alpha", 3, 0.1, title="A"), Document("b", "beta", 2, 0.5), Document("c", "gamma", 1, 0.6)]


@pytest.fixture
def mesh(tmp_path: Path):
    with FakeMesh(compile_contract(tmp_path), list(DOCUMENTS)) as running:
        yield running


@pytest.mark.parametrize(
    ("ranking", "expected"),
    [(Ranking.SPARSE, ["a", "b"]), (Ranking.DENSE, ["c", "b"]), (Ranking.HYBRID, ["a", "b"])],
)
def test_a_ranking_weighs_its_own_stage_alone(mesh: FakeMesh, ranking: Ranking, expected: list[str]) -> None:
    with SearchClient(mesh.address) as client:
        assert [hit.id for hit in client.search("papers", "q", ranking, hits=2).hits] == expected


def test_a_hit_has_the_raw_scores_of_both_retrievers(mesh: FakeMesh) -> None:
    with SearchClient(mesh.address) as client:
        hit = client.search("papers", "q", Ranking.SPARSE, hits=1).hits[0]
    assert (hit.id, hit.title, hit.text) == ("a", "A", "alpha")
    assert hit.scores == {"sparse": 3, "dense": 0.1}


def test_an_unknown_collection_is_told_with_those_that_there_are(mesh: FakeMesh) -> None:
    with SearchClient(mesh.address) as client:
        assert client.snapshot("papers").passages == 3
        with pytest.raises(MeshError, match="no collection 'books'; it has: papers"):
            client.snapshot("books")


def test_a_partial_answer_is_an_error_that_names_stage_and_reason(mesh: FakeMesh) -> None:
    mesh.degraded = True
    with (
        SearchClient(mesh.address) as client,
        pytest.raises(MeshError, match="dense: STAGE_REASON_SHARD_MISSING"),
    ):
        client.search("papers", "q", Ranking.DENSE, hits=1)


def test_a_query_that_the_mesh_refuses_is_told_from_a_failure(mesh: FakeMesh) -> None:
    mesh.refused_queries = {"-word"}
    with SearchClient(mesh.address) as client:
        with pytest.raises(QueryRefused, match="only excluded words"):
            client.search("papers", "-word", Ranking.SPARSE, hits=1)
        mesh.answers_left = 0
        with pytest.raises(MeshError, match="INTERNAL: out of answers") as failure:
            client.search("papers", "q", Ranking.SPARSE, hits=1)
        assert not isinstance(failure.value, QueryRefused)


def test_a_server_without_reflection_is_no_mesh() -> None:
    server = grpc.server(None)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with pytest.raises(MeshError, match=f"127.0.0.1:{port}: UNIMPLEMENTED"):
            SearchClient(f"127.0.0.1:{port}")
    finally:
        server.stop(grace=None)


def test_an_address_of_another_kind_is_refused() -> None:
    with pytest.raises(MeshError, match="ftp://mesh: an address is"):
        SearchClient("ftp://mesh")
