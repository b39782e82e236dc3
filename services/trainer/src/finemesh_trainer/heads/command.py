"""`finemesh-trainer heads`: the best documents of judged queries, as the calibration of int8 bundles reads them."""

import argparse
from pathlib import Path
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Adds `heads` to the command line."""
    parser = subparsers.add_parser("heads", help="write the best documents of judged queries, with their texts")
    add_judged(parser)
    parser.add_argument("--pipeline", default="hybrid", metavar="NAME")
    parser.add_argument("--depth", type=int, default=20, metavar="N", help="documents of a head (20)")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="JSONL, packed if named .gz")
    parser.set_defaults(run=run)


def add_judged(parser: argparse.ArgumentParser) -> None:
    """Which queries are asked, and of which mesh."""
    parser.add_argument("--address", default="http://127.0.0.1:7700", metavar="URL", help="a running mesh")
    parser.add_argument("--collection", required=True, metavar="NAME")
    parser.add_argument("--queries", type=Path, required=True, metavar="FILE", help="queries in BEIR's layout")
    parser.add_argument("--qrels", type=Path, required=True, metavar="FILE", help="their judgements")
    parser.add_argument("--limit", type=int, metavar="N", help="so many queries, drawn with a fixed seed")


def run(args: argparse.Namespace) -> int:
    """Writes the heads."""
    from finemesh_trainer.heads.fetch import fetch_heads
    from finemesh_trainer.heads.head import write_heads
    from finemesh_trainer.mesh import SearchClient

    with SearchClient(args.address) as client:
        heads = fetch_heads(client, args.collection, args.pipeline, args.queries, args.qrels, args.depth, args.limit)
    print(f"{args.output}: {write_heads(args.output, heads)} heads")
    return 0
