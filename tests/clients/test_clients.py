"""The example clients, against a mesh of the real binary and against a scripted one."""

import re
from pathlib import Path
from subprocess import CompletedProcess

import grpc
import pytest
import trustme

from conftest import Client, Mesh
from scripted_mesh import ScriptedMesh

SCRIPTED_ANSWER = "answer\n  1. 1.5000  a  Alpha\n"
DEGRADED = "  degraded: stages did less than they were asked to\n"
CALLS = pytest.mark.parametrize("call", [[], ["--stream"]], ids=["Search", "SearchStream"])


def printed(answer: dict) -> str:
    """What the clients make of an answer, from the command line's JSON."""
    lines = ["answer"]
    for rank, hit in enumerate(answer["hits"], 1):
        lines.append(f"  {rank}. {hit['score']:.4f}  {hit['id']}  {hit['title']}".rstrip())
    for stage in answer["stages"]:
        reason = f" ({stage['reason']})" if stage["reason"] else ""
        lines.append(f"  {stage['stage']}: {stage['status']}{reason}")
    return "\n".join([*lines, ""]) + (DEGRADED if answer["degraded"] else "")


def assert_failed(done: CompletedProcess[str], code: str, sentence: str) -> None:
    """Exit code 1; on the last line (gRPC may log) the address, the status as the language spells it, a sentence."""
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    address, status, details = re.fullmatch(r"(\S+): (\w+): (.+)", done.stderr.splitlines()[-1]).groups()
    assert address.startswith("127.0.0.1:")
    assert status.replace("_", "").upper() == code.replace("_", "")
    assert re.search(sentence, details, re.IGNORECASE)


def test_hits_and_stages_are_printed(client: Client, mesh: Mesh) -> None:
    done = client.run(mesh.address)
    assert done.stdout == printed(mesh.search("hybrid")), done.stderr
    assert done.stdout.startswith("answer\n  1. ")
    assert "  levels  Rising sea level\n" in done.stdout.splitlines(keepends=True)[1]
    assert "  fuse: complete\n" in done.stdout
    assert DEGRADED not in done.stdout


def test_a_degraded_answer_says_so(client: Client, mesh: Mesh) -> None:
    done = client.run(mesh.address, "--pipeline", "colbert")
    assert done.stdout == printed(mesh.search("colbert")), done.stderr
    assert "  late_interaction: skipped (not_indexed)\n" in done.stdout
    assert done.stdout.endswith(DEGRADED)


def test_a_stream_ends_with_the_answer(client: Client, mesh: Mesh) -> None:
    done = client.run(mesh.address, "--pipeline", "full", "--budget-ms", "30000", "--stream")
    so_far, separator, answer = done.stdout.partition("answer\n")
    assert separator + answer == printed(mesh.search("full")), done.stderr
    assert so_far.startswith("so far\n  1. ")
    assert "  rerank: complete\n" in answer
    assert "rerank" not in so_far


@CALLS
def test_an_unknown_collection_is_told(client: Client, mesh: Mesh, call: list[str]) -> None:
    done = client.run(mesh.address, "--collection", "land", *call)
    assert_failed(done, "NOT_FOUND", "collection: land does not exist")


@CALLS
def test_a_budget_that_is_too_short_is_told(client: Client, mesh: Mesh, call: list[str]) -> None:
    assert_failed(client.run(mesh.address, "--budget-ms", "1", *call), "DEADLINE_EXCEEDED", "deadline")


@CALLS
def test_a_silent_mesh_is_left_at_the_deadline(client: Client, call: list[str]) -> None:
    with ScriptedMesh(is_silent=True) as mesh:
        assert_failed(client.run(mesh.address, "--budget-ms", "100", *call), "DEADLINE_EXCEEDED", "deadline")


@CALLS
def test_an_overloaded_mesh_is_asked_again_when_it_says(client: Client, call: list[str]) -> None:
    with ScriptedMesh(refusals=["700"]) as mesh:
        done = client.run(mesh.address, *call)
    assert done.stdout == SCRIPTED_ANSWER, done.stderr
    first, second = mesh.arrivals
    assert second - first >= 0.7


@pytest.mark.parametrize(("refusals", "calls"), [(["-1"], 1), (["10", "10"], 2)], ids=["never", "once"])
def test_an_overloaded_mesh_is_not_pressed(client: Client, refusals: list[str], calls: int) -> None:
    with ScriptedMesh(refusals) as mesh:
        assert_failed(client.run(mesh.address), "RESOURCE_EXHAUSTED", "too many answers are on their way")
    assert len(mesh.arrivals) == calls


def test_a_wait_ends_at_the_deadline(client: Client) -> None:
    with ScriptedMesh(refusals=["60000"]) as mesh:
        assert_failed(client.run(mesh.address, "--budget-ms", "100"), "DEADLINE_EXCEEDED", "deadline")
    assert len(mesh.arrivals) == 1


@CALLS
def test_a_key_is_sent_over_tls(client: Client, tmp_path: Path, call: list[str]) -> None:
    authority, file = trustme.CA(), tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(file)
    with ScriptedMesh(credentials=certified_by(authority)) as mesh:
        done = client.run(mesh.address, "--ca", file, *call, key="secret")
    assert done.stdout == SCRIPTED_ANSWER, done.stderr
    assert mesh.authorizations == ["Bearer secret"]


def test_a_certificate_of_another_authority_is_refused(client: Client, tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(file)
    with ScriptedMesh(credentials=certified_by(trustme.CA())) as mesh:
        assert_failed(client.run(mesh.address, "--ca", file, key="secret"), "UNAVAILABLE", "certificate")
    assert mesh.arrivals == []


def test_what_cannot_be_asked_is_said(client: Client) -> None:
    usage = client.run("127.0.0.1:1", "--budget-ms", "soon")
    assert (usage.returncode, usage.stdout) == (2, "")
    assert "usage" in usage.stderr.lower()
    lacking = client.run("127.0.0.1:1", "--ca", "missing.pem")
    assert (lacking.returncode, lacking.stdout) == (1, "")
    assert "missing.pem" in lacking.stderr and lacking.stderr.count("\n") == 1


def certified_by(authority: trustme.CA) -> grpc.ServerCredentials:
    certificate = authority.issue_cert("127.0.0.1")
    chain = b"".join(blob.bytes() for blob in certificate.cert_chain_pems)
    return grpc.ssl_server_credentials([(certificate.private_key_pem.bytes(), chain)])
