"""What happens to a mesh of containers costs no query."""

import pytest

from engine import docker
from mesh import SHARDS, TOPICS, Mesh, calls, wait_for

ENCODE = "finemesh.encoder.v1.EncoderService/Encode"
LOAD_SECONDS = 90


def assert_none_lost(load: dict) -> None:
    p50, worst = (load["latency_us"][key] / 1e3 for key in ("p50", "max"))
    print(
        f"\n{load['arrivals']} queries, {load['answered']} answered, {load['degraded_share']:.1%} degraded,"
        f" {p50:.0f} ms (p50), {worst:.0f} ms (worst)",
        end="",
    )
    assert load["errors"] == {}
    assert load["answered"] == load["arrivals"]


@pytest.mark.parametrize("pipeline", ["hybrid", "colbert", "full"])
def test_every_stage_answers_whole(mesh: Mesh, pipeline: str) -> None:
    answer = mesh.search(pipeline, TOPICS[0])
    assert answer["hits"][0]["id"].startswith(TOPICS[0])
    assert not answer["degraded"], answer["stages"]
    for stage in answer["stages"]:
        assert stage["status"] == "complete", stage
        assert stage["shards_answered"] == stage["shards_asked"], stage
    shards = {stage["stage"]: stage["shards_asked"] for stage in answer["stages"]}
    assert shards["sparse"] == shards["dense"] == SHARDS


def test_a_replica_more_and_one_killed(mesh: Mesh) -> None:
    replicas = mesh.replicas_seen("sparse-retriever")
    assert replicas == 2 * SHARDS
    with mesh.load(LOAD_SECONDS) as load:
        mesh.scale("sparse-retriever-1", 3)
        mesh.await_replicas("sparse-retriever", replicas + 1)
        for service in ("sparse-retriever-0", "dense-retriever-1"):
            docker("kill", mesh.containers(service)[0])
        mesh.await_replicas("sparse-retriever", replicas)
        mesh.await_replicas("dense-retriever", replicas - 1)
    assert_none_lost(load)


def test_names_are_followed_up_and_down(mesh: Mesh) -> None:
    """Encoders are known by one name, whose addresses change."""
    assert mesh.replicas_seen("encoder") == 1
    with mesh.load(LOAD_SECONDS) as load:
        mesh.scale("encoder", 3)
        mesh.await_replicas("encoder", 3)
        encoders = mesh.containers("encoder")
        assert len(encoders) == 3
        wait_for(lambda: all(calls(encoder, ENCODE) for encoder in encoders), "calls to all three encoders")
        mesh.scale("encoder", 1)
        mesh.await_replicas("encoder", 1)
    assert_none_lost(load)
