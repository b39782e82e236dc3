"""A search service whose scores a test writes down, behind the contract of this repository and with reflection."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import grpc
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse
from grpc_tools import protoc

PROTO = Path(__file__).parents[3] / "proto"
SEARCH_PROTO = "finemesh/search/v1/search.proto"


def compile_contract(folder: Path) -> FileDescriptorSet:
    """The search contract and its imports."""
    compiled = folder / "search.binpb"
    outcome = protoc.main(
        ["protoc", f"-I{PROTO}", "--include_imports", f"--descriptor_set_out={compiled}", SEARCH_PROTO]
    )
    assert outcome == 0
    return FileDescriptorSet.FromString(compiled.read_bytes())


@dataclass(frozen=True)
class Document:
    """A document with its raw scores: the same for every query."""

    id: str
    text: str
    sparse: float
    dense: float
    title: str = ""


@dataclass
class FakeMesh:
    """Serves `documents` as the collection "papers". The fields may be changed while it runs."""

    contract: FileDescriptorSet
    documents: list[Document]
    snapshot: int = 1
    refused_queries: set[str] = field(default_factory=set)
    degraded: bool = False
    has_vectors: bool = True
    answers_left: int | None = None
    """Searches until it breaks; None: it does not."""

    searches: int = 0

    def __enter__(self) -> Self:
        self._pool = DescriptorPool()
        for file in self.contract.file:
            self._pool.Add(file)
        self._server = grpc.server(ThreadPoolExecutor(4))
        self._server.add_generic_rpc_handlers((self._search_handlers(), self._reflection_handlers()))
        port = self._server.add_insecure_port("127.0.0.1:0")
        self.address = f"http://127.0.0.1:{port}"
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(grace=None).wait()

    def _type(self, name: str) -> Any:
        return GetMessageClass(self._pool.FindMessageTypeByName(f"finemesh.search.v1.{name}"))

    def _search_handlers(self) -> grpc.GenericRpcHandler:
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(
                method, self._type(f"{request}Request").FromString, lambda response: response.SerializeToString()
            )
            for name, request, method in [
                ("Search", "Search", self._search),
                ("Describe", "Describe", self._describe),
            ]
        }
        return grpc.method_handlers_generic_handler("finemesh.search.v1.SearchService", handlers)

    def _reflection_handlers(self) -> grpc.GenericRpcHandler:
        handler = grpc.stream_stream_rpc_method_handler(
            self._reflect, ServerReflectionRequest.FromString, ServerReflectionResponse.SerializeToString
        )
        return grpc.method_handlers_generic_handler(
            "grpc.reflection.v1.ServerReflection", {"ServerReflectionInfo": handler}
        )

    def _reflect(self, requests: Any, _context: grpc.ServicerContext) -> Any:
        """One file an answer, as tonic has it: the client must ask for the imports."""
        for request in requests:
            name = request.file_by_filename or SEARCH_PROTO
            file = next(file for file in self.contract.file if file.name == name)
            response = ServerReflectionResponse()
            response.file_descriptor_response.file_descriptor_proto.append(file.SerializeToString())
            yield response

    def _describe(self, _request: Any, _context: grpc.ServicerContext) -> Any:
        response = self._type("DescribeResponse")()
        info = response.collections.add(shards=1, passages=len(self.documents))
        info.snapshot.collection, info.snapshot.number = "papers", self.snapshot
        return response

    def _search(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.searches += 1
        if self.answers_left is not None and self.searches > self.answers_left:
            context.abort(grpc.StatusCode.INTERNAL, "out of answers")
        if request.query in self.refused_queries:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "query: only excluded words")
        if not self.has_vectors and request.pipeline != "sparse":
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "collection papers was indexed without vectors")
        response = self._type("SearchResponse")(degraded=self.degraded)
        response.snapshot.number = self.snapshot
        if self.degraded:
            response.stages.add(stage="dense", status="STAGE_STATUS_PARTIAL", reason="STAGE_REASON_SHARD_MISSING")
        for document in self._ranked(request):
            hit = response.hits.add(id=document.id, title=document.title, text=document.text)
            hit.trail.add(stage="sparse", raw=document.sparse)
            if self.has_vectors:
                hit.trail.add(stage="dense", raw=document.dense)
        return response

    def _ranked(self, request: Any) -> list[Document]:
        alpha = 0.0 if request.pipeline == "sparse" else 0.5
        if request.HasField("fusion"):
            alpha = request.fusion.alpha

        def order(document: Document) -> tuple[float, str]:
            return -(alpha * document.dense + (1 - alpha) * document.sparse), document.id

        return sorted(self.documents, key=order)[: request.k]
