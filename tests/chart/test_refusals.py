"""Values that cannot work are refused with a sentence that says what to change."""

from pathlib import Path

import pytest
import yaml

from rendering import CHART, Chart

S3 = {"storage": {"type": "s3", "s3": {"bucket": "b"}}}
"""Where more than one node is meant."""


def refusal(chart: Chart, values: dict, tmp_path: Path) -> str:
    file = tmp_path / "values.yaml"
    file.write_text(yaml.safe_dump(values))
    outcome = chart.template(file)
    assert outcome.returncode != 0, "these values were accepted"
    return outcome.stderr


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"shards": 0}, "shards is 0: a collection has at least one. Set shards to 1 or more."),
        ({"encoder": {"replicas": 0}}, "Set encoder.replicas or common.replicas to 1 or more."),
        (
            S3 | {"sparseRetriever": {"replicas": 2, "podDisruptionBudget": {"minAvailable": 2}}},
            "sparseRetriever.podDisruptionBudget.minAvailable is 2 of 2 pods: no node could ever be drained. Lower it, "
            "or raise sparseRetriever.replicas.",
        ),
        (
            {"common": {"podDisruptionBudget": {"maxUnavailable": 0}}},
            "podDisruptionBudget.maxUnavailable is 0: no node could ever be drained. Set it to 1 or more",
        ),
        (
            {"encoder": {"autoscaling": {"enabled": True, "minReplicas": 4, "maxReplicas": 3}}},
            "encoder.autoscaling.minReplicas is 4, maxReplicas 3. Lower minReplicas, or raise maxReplicas.",
        ),
        (
            {"encoder": {"autoscaling": {"enabled": True, "minReplicas": 0}}},
            "encoder.autoscaling.minReplicas is 0: nobody would answer. Set it to 1 or more.",
        ),
        (
            {"encoder": {"autoscaling": {"enabled": True, "by": "keda", "metric": "queue"}}},
            "Set encoder.autoscaling.prometheusAddress or that of common.",
        ),
        ({"storage": {"type": "s3"}}, "storage.type is s3 without a bucket. Set storage.s3.bucket."),
        (
            {"denseRetriever": {"replicas": 2}},
            "denseRetriever has replicas, but its volume is ReadWriteOnce: all of them would be on one node. Set "
            "storage.volume.accessMode to ReadWriteMany, storage.type to s3, or denseRetriever.replicas to 1",
        ),
        ({"tls": {"enabled": True}}, "tls is enabled without certificates. Set tls.existingSecret"),
        (
            {"tls": {"enabled": True, "existingSecret": "a", "certManager": {"issuerRef": {"name": "b"}}}},
            "Leave one of them empty.",
        ),
        ({"tls": {"existingSecret": "a"}}, "calls would be plaintext. Set tls.enabled to true."),
        ({"tls": {"clientCertificates": True}}, "tls.clientCertificates needs TLS. Set tls.enabled to true."),
        (
            {"apiKeys": {"enabled": True}},
            "Set apiKeys.existingSecret to a Secret whose key api-keys holds one a line.",
        ),
        (
            {"indexer": {"cronJob": {"enabled": True}, "collection": "papers"}},
            "Set indexer.collection, and indexer.files to what its pod mounts or fetches.",
        ),
        ({"ingress": {"enabled": True}}, "Set ingress.host to the name that clients call."),
        ({"gateway": {"enabled": True}}, "Set gateway.parentRefs"),
    ],
    ids=lambda value: None if isinstance(value, dict) else value[:40],
)
def test_it_says_what_to_change(chart: Chart, tmp_path: Path, values: dict, sentence: str) -> None:
    assert sentence in refusal(chart, values, tmp_path)


def test_all_mistakes_are_told_at_once(chart: Chart, tmp_path: Path) -> None:
    values = {"shards": 0, "storage": {"type": "s3"}, "apiKeys": {"enabled": True}}
    said = refusal(chart, values, tmp_path)
    assert all(sentence in said for sentence in ("shards is 0", "without a bucket", "without keys"))


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"replicas": 2}, "replicas"),
        ({"encoder": {"enabled": False}}, "enabled"),
        ({"common": {"replica": 2}}, "replica"),
        ({"crossEncoder": {"autoscaling": {"minReplica": 2}}}, "minReplica"),
        ({"storage": {"s3": {"buckets": "b"}}}, "buckets"),
        ({"config": {"server": {"address": "0.0.0.0:1"}}}, "address"),
        ({"config": {"sparse-retriever": {}}}, "sparse-retriever"),
        ({"indexer": {"replicas": 2}}, "replicas"),
        ({"storage": {"type": "nfs"}}, "type"),
        ({"shards": "two"}, "shards"),
        ({"tls": None}, "tls"),
    ],
    ids=lambda value: None if isinstance(value, dict) else value,
)
def test_unknown_keys_and_wrong_types_are_named(chart: Chart, tmp_path: Path, values: dict, named: str) -> None:
    said = refusal(chart, values, tmp_path)
    assert "don't meet the specifications of the schema" in said
    assert named in said


def test_a_stage_may_be_left_empty(chart: Chart, tmp_path: Path) -> None:
    """As it is where all below it is commented out."""
    file = tmp_path / "values.yaml"
    file.write_text("orchestrator:\nencoder:\n")
    assert chart.render(file) == chart.render(CHART / "ci/default-values.yaml")
