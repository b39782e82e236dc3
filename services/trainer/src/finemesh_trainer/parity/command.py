"""`finemesh-trainer parity`: the served path against PyTorch, on a judged set. The exit code is that of the gate."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finemesh_trainer.errors import ConfigError
from finemesh_trainer.heads.command import add_judged

if TYPE_CHECKING:
    from finemesh_trainer.heads.head import Head
    from finemesh_trainer.models.encoder import Encoder
    from finemesh_trainer.parity.gate import Parity

FAILED = 1


def add_parser(subparsers: Any) -> None:
    """Adds `parity` to the command line."""
    parser = subparsers.add_parser("parity", help="hold a running mesh against PyTorch, on a judged set")
    models = parser.add_subparsers(required=True, metavar="MODEL")
    add_encoder(models.add_parser("encoder", help="the vectors, against an exact ranking of all passages"))
    add_cross_encoder(models.add_parser("cross-encoder", help="the reranked head, against the same head blended here"))


def add_encoder(parser: argparse.ArgumentParser) -> None:
    """Arguments of `parity encoder`."""
    add_common(parser, pipeline="dense")
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--run", type=Path, metavar="DIR", help="the encoder's training run", dest="folder")
    model.add_argument("--base", type=Path, metavar="DIR", help="a pretrained encoder that is served as it is")
    parser.add_argument("--corpus", type=Path, required=True, metavar="FILE", help="the collection's documents")
    parser.add_argument("--passage-tokens", type=int, default=256, metavar="N", help="as it was indexed (256)")
    parser.add_argument("--overlap-tokens", type=int, default=32, metavar="N", help="as it was indexed (32)")
    parser.set_defaults(run=run_encoder)


def add_cross_encoder(parser: argparse.ArgumentParser) -> None:
    """Arguments of `parity cross-encoder`."""
    add_common(parser, pipeline="full")
    parser.add_argument("--run", type=Path, required=True, metavar="DIR", help="its training run", dest="folder")
    parser.add_argument("--before", default="hybrid", metavar="NAME", help="the pipeline without it (hybrid)")
    parser.add_argument("--window", type=int, default=50, metavar="N", help="documents that it scores (50)")
    parser.add_argument("--weight", type=float, required=True, metavar="W", help="its weight in the blend")
    parser.set_defaults(run=run_cross_encoder)


def add_common(parser: argparse.ArgumentParser, pipeline: str) -> None:
    """Arguments of both."""
    add_judged(parser)
    parser.add_argument("--pipeline", default=pipeline, metavar="NAME", help=f"the served pipeline ({pipeline})")
    parser.add_argument(
        "--int8", action="store_true", help="the served bundle is int8: say by how much it differs, judge nothing"
    )


def run_encoder(args: argparse.Namespace) -> int:
    """Ranks all passages by PyTorch's vectors and compares."""
    from finemesh_trainer.data.beir import read_corpus
    from finemesh_trainer.parity.expected import encoder_rankings
    from finemesh_trainer.parity.passages import PassageSize

    served = fetch(args, args.pipeline, depth=10)
    documents = list(read_corpus(args.corpus).values())
    size = PassageSize(args.passage_tokens, args.overlap_tokens)
    expected = encoder_rankings(load_model(args), documents, {head.query_id: head.query for head in served}, size)
    return judge(args, expected, served)


def load_model(args: argparse.Namespace) -> "Encoder":
    """The run's encoder, or the pretrained one."""
    from finemesh_trainer.encode_task import load_encoder
    from finemesh_trainer.parity.expected import frozen_encoder

    return load_encoder(args.folder) if args.folder else frozen_encoder(args.base, args.passage_tokens)


def run_cross_encoder(args: argparse.Namespace) -> int:
    """Blends the heads of the pipeline without the model with PyTorch's logits and compares."""
    from finemesh_trainer.parity.expected import cross_encoder_rankings
    from finemesh_trainer.rerank_task import load_cross_encoder

    if args.window < 10 or not 0 < args.weight <= 1:
        raise ConfigError(["--window must be 10 or more, --weight above 0 and at most 1"])
    heads = fetch(args, args.before, depth=args.window)
    expected = cross_encoder_rankings(load_cross_encoder(args.folder), heads, args.weight)
    return judge(args, expected, fetch(args, args.pipeline, depth=10))


def fetch(args: argparse.Namespace, pipeline: str, depth: int) -> "list[Head]":
    """What the mesh gives for the judged queries that it reads word for word."""
    from finemesh_trainer.heads.fetch import fetch_heads
    from finemesh_trainer.mesh import SearchClient

    with SearchClient(args.address) as client:
        heads = fetch_heads(client, args.collection, pipeline, args.queries, args.qrels, depth, args.limit)
    return [head for head in heads if is_plain(head.query)]


def is_plain(query: str) -> bool:
    """Without phrases, required and excluded words: the mesh takes those apart before a model sees the query."""
    return '"' not in query and not any(word.startswith(("+", "-")) for word in query.split())


def judge(args: argparse.Namespace, expected: dict[str, list[str]], served: "list[Head]") -> int:
    """Prints how far the mesh is from PyTorch; 0 when the gate lets it through, 1 otherwise."""
    from finemesh_trainer.parity.gate import compare

    rankings = {head.query_id: [document.id for document in head.documents] for head in served}
    parity = compare(expected, rankings, {head.query_id: head.grades for head in served})
    print(f"{args.collection}: {parity.described()}")
    return verdict(parity, stated_only=args.int8)


def verdict(parity: "Parity", *, stated_only: bool) -> int:
    """The gate's exit code, and why."""
    if stated_only:
        return 0
    print("passed" if parity.passes else f"failed: {'; '.join(parity.objections)}")
    if not parity.passes and parity.furthest:
        print(f"furthest apart: {', '.join(parity.furthest)}")
    return 0 if parity.passes else FAILED
