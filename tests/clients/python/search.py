"""Asks a finemesh and prints what it answers: a client of `finemesh.search.v1`, generated from proto/."""

import argparse
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
from finemesh.search.v1 import search_pb2 as search
from finemesh.search.v1.search_pb2_grpc import SearchServiceStub

GRACE_S = 0.5
"""Added to the budget for the deadline: the mesh answers within the budget with what it has, a silent one is left."""

RETRY_ONCE = {
    "methodConfig": [
        {
            "name": [{"service": "finemesh.search.v1.SearchService"}],
            "retryPolicy": {
                "maxAttempts": 2,
                "initialBackoff": "0.1s",
                "maxBackoff": "1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["RESOURCE_EXHAUSTED"],
            },
        }
    ]
}
"""An overloaded mesh says in `grpc-retry-pushback-ms` when to try again, or never; gRPC obeys, within the deadline."""


def main() -> None:
    arguments = read_arguments()
    try:
        with open_channel(arguments.address, arguments.ca) as channel:
            for header, answer in ask(SearchServiceStub(channel), arguments):
                print("\n".join([header, *lines(answer)]), flush=True)
    except grpc.RpcError as error:
        sys.exit(f"{arguments.address}: {error.code().name}: {error.details()}")
    except (OSError, ValueError) as error:
        sys.exit(str(error))


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, epilog="An API key is taken from FINEMESH_API_KEY.")
    parser.add_argument("--address", required=True, metavar="HOST:PORT")
    parser.add_argument("--ca", type=Path, metavar="FILE", help="the authority for TLS; without it: plaintext")
    parser.add_argument("--collection", required=True)
    parser.add_argument("--query", required=True)
    parser.add_argument("--pipeline", default="", help="default: the mesh's own")
    parser.add_argument("--budget-ms", type=int, default=2000)
    parser.add_argument("--stream", action="store_true", help="print answers as they become better")
    return parser.parse_args()


def open_channel(address: str, ca: Path | None) -> grpc.Channel:
    options = [("grpc.service_config", json.dumps(RETRY_ONCE))]
    if ca is None:
        return grpc.insecure_channel(address, options)
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(ca.read_bytes()), options)


def ask(mesh: SearchServiceStub, arguments: argparse.Namespace) -> Iterator[tuple[str, search.SearchResponse]]:
    """The answer, and with `--stream` those before it."""
    request = search.SearchRequest(
        collection=arguments.collection,
        query=arguments.query,
        pipeline=arguments.pipeline,
        budget_ms=arguments.budget_ms,
    )
    timeout_s = arguments.budget_ms / 1000 + GRACE_S
    key = os.environ.get("FINEMESH_API_KEY")
    metadata = [("authorization", f"Bearer {key}")] if key else []
    if not arguments.stream:
        yield "answer", mesh.Search(request, timeout=timeout_s, metadata=metadata)
        return
    for message in mesh.SearchStream(request, timeout=timeout_s, metadata=metadata):
        yield "answer" if message.is_last else "so far", message.answer


def lines(answer: search.SearchResponse) -> Iterator[str]:
    for rank, hit in enumerate(answer.hits, 1):
        yield f"  {rank}. {hit.score:.4f}  {hit.id}  {hit.title}".rstrip()
    for report in answer.stages:
        yield f"  {report.stage}: {outcome(report)}"
    if answer.degraded:
        yield "  degraded: stages did less than they were asked to"


def outcome(report: search.StageReport) -> str:
    status = word(search.StageStatus, "STAGE_STATUS_", report.status)
    return f"{status} ({word(search.StageReason, 'STAGE_REASON_', report.reason)})" if report.reason else status


def word(enum, prefix: str, number: int) -> str:
    """The contract's name of a number; the number itself where a newer mesh has one that this contract has not."""
    value = enum.DESCRIPTOR.values_by_number.get(number)
    return value.name.removeprefix(prefix).lower() if value else str(number)


if __name__ == "__main__":
    main()
