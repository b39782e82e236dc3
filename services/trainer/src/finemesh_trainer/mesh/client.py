"""A client of `finemesh.search.v1.SearchService` that mines with it: rankings of one retriever or of both, with the raw
scores of both for every hit."""

import json
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Any, Self

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

from finemesh_trainer.errors import TrainerError
from finemesh_trainer.mesh.reflection import describe_service

PACKAGE = "finemesh.search.v1"
SERVICE = f"{PACKAGE}.SearchService"
FUSING_PIPELINE = "hybrid"
"""The pipeline that has both retrievers and completes the scores that one of them is missing."""

MAX_ANSWER_BYTES = 64 << 20
"""1000 passages of a generous 64 KiB."""

TIMEOUT_S = 60.0
RETRIES = {
    "maxAttempts": 5,
    "initialBackoff": "0.2s",
    "maxBackoff": "5s",
    "backoffMultiplier": 3,
    "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
}
"""An overloaded or restarting replica is waited for; 5 attempts are gRPC's own limit."""


class MeshError(TrainerError):
    """The mesh cannot be used: unreachable, without the collection, or answering with less than all of itself."""


class QueryRefused(MeshError):
    """The mesh refuses this one query, as it would refuse it when serving."""


class Ranking(StrEnum):
    """What orders the hits: one retriever's score alone, or both as the pipeline fuses them."""

    SPARSE = "sparse"
    DENSE = "dense"
    HYBRID = "hybrid"


DENSE_WEIGHT = {Ranking.SPARSE: 0.0, Ranking.DENSE: 1.0, Ranking.HYBRID: None}
"""Fusing with all weight on one stage is that stage's ranking, and its hits have the other stage's scores too."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One immutable state of a collection; `passages` counts what a search can find."""

    collection: str
    number: int
    passages: int


@dataclass(frozen=True, slots=True)
class Hit:
    """A document by its best passage. `scores` are raw, by stage: BM25 for "sparse", the cosine for "dense"."""

    id: str
    score: float
    title: str
    text: str
    scores: dict[str, float]


@dataclass(frozen=True, slots=True)
class Answer:
    """Hits, best first, and the number of the snapshot that they come from."""

    hits: tuple[Hit, ...]
    snapshot: int


class SearchClient:
    """A connection to a mesh, safe to use from many threads. The message types come from the mesh itself.

    Raises:
        MeshError: the mesh cannot be reached, or is not one.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._channel = open_channel(address)
        try:
            pool = describe_service(self._channel, SERVICE, TIMEOUT_S)
        except LookupError as error:
            raise MeshError(f"{address}: is no finemesh: {error}") from error
        except grpc.RpcError as error:
            raise MeshError(f"{address}: {sentence(error)}") from error
        self._request_type = message_type(pool, "SearchRequest")
        self._fusion_type = message_type(pool, "Fusion")
        self._describe_type = message_type(pool, "DescribeRequest")
        self._search = self._method("Search", message_type(pool, "SearchResponse"))
        self._describe = self._method("Describe", message_type(pool, "DescribeResponse"))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channel.close()

    def snapshot(self, collection: str) -> Snapshot:
        """The newest state of a collection.

        Raises:
            MeshError: there is no such collection.
        """
        described = self._call(self._describe, self._describe_type()).collections
        for info in described:
            if info.snapshot.collection == collection:
                return Snapshot(collection, info.snapshot.number, info.passages)
        names = ", ".join(sorted(info.snapshot.collection for info in described)) or "none"
        raise MeshError(f"{self.address}: has no collection {collection!r}; it has: {names}")

    def search(self, collection: str, query: str, ranking: Ranking, hits: int) -> Answer:
        """The best `hits` documents (at most 1000) under `ranking`, each with both retrievers' raw scores.

        Raises:
            QueryRefused: the mesh does not take this query.
            MeshError: it cannot answer, or only in part: a partial list would pass for a whole one in training.
        """
        return self.ask(collection, query, FUSING_PIPELINE, hits, self._fusion(ranking))

    def ask(self, collection: str, query: str, pipeline: str, hits: int, fusion: Any = None) -> Answer:
        """The best `hits` documents of any pipeline; `fusion` stands in place of its own.

        Raises:
            QueryRefused: the mesh does not take this query.
            MeshError: it cannot answer, or only in part.
        """
        request = self._request_type(
            collection=collection, query=query, k=hits, pipeline=pipeline, fusion=fusion, explain=True
        )
        response = self._call(self._search, request)
        if response.degraded:
            raise MeshError(f"{self.address}: a partial answer to {query!r}: {shortcomings(response)}")
        return Answer(tuple(read_hit(hit) for hit in response.hits), response.snapshot.number)

    def _fusion(self, ranking: Ranking) -> Any:
        weight = DENSE_WEIGHT[ranking]
        return None if weight is None else self._fusion_type(method="FUSION_METHOD_Z_SCORE", alpha=weight)

    def _method(self, name: str, response_type: Any) -> Any:
        return self._channel.unary_unary(
            f"/{SERVICE}/{name}",
            request_serializer=lambda request: request.SerializeToString(),
            response_deserializer=response_type.FromString,
        )

    def _call(self, method: Any, request: Any) -> Any:
        try:
            return method(request, timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            refused = error.code() == grpc.StatusCode.INVALID_ARGUMENT
            kind = QueryRefused if refused else MeshError
            raise kind(f"{self.address}: {sentence(error)}") from error


def open_channel(address: str) -> grpc.Channel:
    """A channel to `http://host:port`, `https://host:port` or `host:port`."""
    scheme, separator, target = address.rpartition("://")
    config = {"methodConfig": [{"name": [{"service": SERVICE}], "retryPolicy": RETRIES}]}
    options = [
        ("grpc.max_receive_message_length", MAX_ANSWER_BYTES),
        ("grpc.service_config", json.dumps(config)),
    ]
    if separator and scheme not in ("http", "https"):
        raise MeshError(f"{address}: an address is http://host:port, https://host:port or host:port")
    if scheme == "https":
        return grpc.secure_channel(target, grpc.ssl_channel_credentials(), options=options)
    return grpc.insecure_channel(target, options=options)


def message_type(pool: DescriptorPool, name: str) -> Any:
    """The class of a message of the search package."""
    return GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{name}"))


def read_hit(hit: Any) -> Hit:
    """A hit of the wire, with its score trail as a table."""
    return Hit(hit.id, hit.score, hit.title, hit.text, {entry.stage: entry.raw for entry in hit.trail})


def shortcomings(response: Any) -> str:
    """The stages that did less than they were asked to, with the contract's own names of the reasons."""
    return ", ".join(f"{report.stage}: {reason_name(report)}" for report in response.stages if report.reason)


def reason_name(report: Any) -> str:
    """The name of a report's reason."""
    return report.DESCRIPTOR.fields_by_name["reason"].enum_type.values_by_number[report.reason].name


def sentence(error: grpc.RpcError) -> str:
    """The status of a failed call in words."""
    return f"{error.code().name}: {error.details()}"
