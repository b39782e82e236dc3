"""A search service that does what a test wants of it, behind the contract of this repository."""

import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import grpc

sys.path.append(str(Path(__file__).parents[2] / "proto"))
search, services = grpc.protos_and_services("finemesh/search/v1/search.proto")

ANSWER = search.SearchResponse(hits=[search.Hit(id="a", score=1.5, title="Alpha")])


@dataclass
class ScriptedMesh:
    """Answers every call with `ANSWER`, except as the fields say."""

    refusals: list[str] = field(default_factory=list)
    """The first calls are refused for load; this is what each is told in `grpc-retry-pushback-ms`."""

    is_silent: bool = False
    credentials: grpc.ServerCredentials | None = None
    arrivals: list[float] = field(default_factory=list)
    """When the calls came, in seconds."""

    authorizations: list[str | None] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._server = grpc.server(ThreadPoolExecutor(4))
        services.add_SearchServiceServicer_to_server(self, self._server)
        if self.credentials:
            port = self._server.add_secure_port("127.0.0.1:0", self.credentials)
        else:
            port = self._server.add_insecure_port("127.0.0.1:0")
        self.address = f"127.0.0.1:{port}"
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(grace=None).wait()

    def Search(self, request: Any, context: grpc.ServicerContext) -> Any:
        refused = len(self.arrivals) < len(self.refusals)
        self.arrivals.append(time.monotonic())
        self.authorizations.append(dict(context.invocation_metadata()).get("authorization"))
        if self.is_silent:
            ended = threading.Event()
            if context.add_callback(ended.set):
                ended.wait()
        if refused:
            context.set_trailing_metadata([("grpc-retry-pushback-ms", self.refusals[len(self.arrivals) - 1])])
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many answers are on their way")
        return ANSWER

    def SearchStream(self, request: Any, context: grpc.ServicerContext) -> Any:
        yield search.SearchStreamResponse(answer=self.Search(request, context), is_last=True)

    def Describe(self, request: Any, context: grpc.ServicerContext) -> Any:
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "not scripted")
