"""The service as its users run it, `finemesh serve --target cross-encoder`; a client; what its log says of batches."""

import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import grpc
from finemesh_trainer.mesh.reflection import describe_service
from google.protobuf.message_factory import GetMessageClass

PACKAGE = "finemesh.rerank.v1"
SERVICE = f"{PACKAGE}.RerankerService"
CONNECT_TIMEOUT_S = 10.0
CALL_TIMEOUT_S = 120.0
STARTED = re.compile(r" serves on http://(\S+)")
BATCH = re.compile(r"^(\S+Z) +DEBUG .*a batch is computed (.*)$")

CONFIG = """
[server]
address = "127.0.0.1:0"
[telemetry]
log = "info,cross_encoder=debug"
[cross_encoder]
compute_threads = {threads}
queue_passages = 100000
"""


@dataclass(frozen=True, slots=True)
class Call:
    """A query and the passages that are to be scored for it."""

    query: str
    passages: Sequence[str]


@dataclass(frozen=True, slots=True)
class Batch:
    """What the log says of a batch; times are those of the wall clock."""

    started: float
    ended: float
    pairs: int
    tokens: int
    padding_tokens: int
    limit_tokens: int
    model_s: float


class Service:
    """A running service on the first `cores` cores, with a compute thread for each.

    `bundle`: the one that it serves; None: the one that comes with the models.
    """

    def __init__(self, finemesh: Path, bundle: Path | None, cores: int) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.cores = cores
        config = Path(self.folder.name) / "reader.toml"
        models = f'[models]\nreranker_bundle = "{bundle.resolve()}"\n' if bundle else ""
        config.write_text(CONFIG.format(threads=cores) + models, "utf-8")
        self.log = Path(self.folder.name) / "log"
        self.process = subprocess.Popen(
            [str(finemesh.resolve()), "--config", str(config), "serve", "--target", "cross-encoder"],
            stdout=subprocess.PIPE,
            stderr=self.log.open("wb"),
            text=True,
            preexec_fn=lambda: os.sched_setaffinity(0, range(cores)),
        )
        self.channel = grpc.insecure_channel(self.address())
        pool = describe_service(self.channel, SERVICE, CONNECT_TIMEOUT_S)
        request, response = (GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.Rerank{it}")) for it in KINDS)
        self.request_type = request
        self.method = self.channel.unary_unary(
            f"/{SERVICE}/Rerank",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=response.FromString,
        )

    def address(self) -> str:
        """Where it listens, once it does."""
        line = self.process.stdout.readline() if self.process.stdout else ""
        started = STARTED.search(line)
        if not started:
            raise SystemExit(f"the service did not start:\n{self.log.read_text('utf-8', 'replace')}")
        return started[1]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.channel.close()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()
        self.folder.cleanup()

    def rerank(self, call: Call, timeout_s: float = CALL_TIMEOUT_S) -> Any:
        """The answer to a call; `grpc.RpcError` where there is none."""
        return self.method(self.request_type(query=call.query, passages=call.passages), timeout=timeout_s)

    def batches(self, since: float, until: float = float("inf")) -> list[Batch]:
        """The batches that began in this time."""
        lines = self.log.read_text("utf-8", "replace").splitlines()
        batches = (read_batch(*match.groups()) for line in lines if (match := BATCH.match(line)))
        return [batch for batch in batches if since <= batch.started < until]


KINDS = ("Request", "Response")


def read_batch(timestamp: str, fields: str) -> Batch:
    """A batch from its line."""
    number = {name: int(value) for name, value in (field.split("=") for field in fields.split())}
    ended = datetime.fromisoformat(timestamp).astimezone(UTC).timestamp()
    return Batch(
        started=ended - number["busy_us"] / 1e6,
        ended=ended,
        pairs=number["pairs"],
        tokens=number["tokens"],
        padding_tokens=number["padding_tokens"],
        limit_tokens=number["limit_tokens"],
        model_s=number["model_us"] / 1e6,
    )
