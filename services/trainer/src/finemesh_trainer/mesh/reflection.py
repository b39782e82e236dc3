"""The message types of a server, asked of the server itself (`grpc.reflection.v1`).

Every finemesh port has reflection, so the client needs no generated code and no copy of the contracts: it speaks what
the mesh that it talks to speaks.
"""

import grpc
from google.protobuf.descriptor_database import DescriptorDatabase
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool

# Version 1 has the messages of v1alpha under another service name; Python's package carries v1alpha alone.
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse

REFLECTION_METHOD = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"


def describe_service(channel: grpc.Channel, service: str, timeout_s: float) -> DescriptorPool:
    """The descriptors of `service` and of all that its file imports.

    Raises:
        grpc.RpcError: the server cannot be reached, or has no reflection.
        LookupError: the server does not know the service.
    """
    database = DescriptorDatabase()
    known: set[str] = set()
    wanted = [ServerReflectionRequest(file_containing_symbol=service)]
    while wanted:
        files = [file for file in fetch_files(channel, wanted, timeout_s) if file.name not in known]
        for file in files:
            database.Add(file)
            known.add(file.name)
        imports = {name for file in files for name in file.dependency} - known
        wanted = [ServerReflectionRequest(file_by_filename=name) for name in sorted(imports)]
    return DescriptorPool(database)


def fetch_files(
    channel: grpc.Channel, requests: list[ServerReflectionRequest], timeout_s: float
) -> list[FileDescriptorProto]:
    """The answers to some reflection requests, read."""
    ask = channel.stream_stream(
        REFLECTION_METHOD,
        request_serializer=ServerReflectionRequest.SerializeToString,
        response_deserializer=ServerReflectionResponse.FromString,
    )
    answers = list(ask(iter(requests), timeout=timeout_s))
    refused = [answer.error_response.error_message for answer in answers if answer.HasField("error_response")]
    if refused:
        raise LookupError(refused[0])
    blobs = [blob for answer in answers for blob in answer.file_descriptor_response.file_descriptor_proto]
    return [FileDescriptorProto.FromString(blob) for blob in blobs]
