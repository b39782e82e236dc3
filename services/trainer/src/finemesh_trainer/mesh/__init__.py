"""What the trainer asks a running mesh: the public search API over gRPC."""

from finemesh_trainer.mesh.client import Answer, Hit, MeshError, QueryRefused, Ranking, SearchClient, Snapshot

__all__ = ["Answer", "Hit", "MeshError", "QueryRefused", "Ranking", "SearchClient", "Snapshot"]
