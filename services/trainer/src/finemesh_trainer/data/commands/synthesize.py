"""`finemesh-trainer synthesize`: titles, keyword queries and claims out of a corpus."""

import argparse
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm import tqdm

from finemesh_trainer.data.beir import corpus_file, read_corpus
from finemesh_trainer.data.commands.arguments import at_least
from finemesh_trainer.data.examples import write_examples
from finemesh_trainer.data.synthesis import STYLES, Corpus, synthesise
from finemesh_trainer.errors import DataError


def add_parser(subparsers: Any) -> None:
    """Adds `synthesize` to the command line."""
    parser = subparsers.add_parser("synthesize", help="make queries in styles that the pairs lack, from a corpus")
    parser.add_argument("corpus", type=Path, help="a BEIR folder, or its corpus.jsonl")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="the examples, JSONL or JSONL.gz")
    parser.add_argument("--styles", nargs="+", choices=list(STYLES), default=list(STYLES), help="default: all")
    parser.add_argument(
        "--per-style", type=at_least(1, int), default=1000, metavar="N", help="examples of each (default: %(default)s)"
    )
    parser.add_argument(
        "--skip", type=at_least(0, int), default=0, metavar="N", help="passes over the first N documents"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Writes the examples, and prints how many of each style the corpus gave."""
    path = corpus_file(args.corpus) if args.corpus.is_dir() else args.corpus
    corpus = Corpus.of(islice(read_corpus(path).values(), args.skip, None))
    made = synthesise(corpus, args.styles, args.per_style, args.seed)
    examples = list(tqdm(made, total=len(args.styles) * args.per_style, unit=" examples", disable=None))
    if not examples:
        raise DataError(path, None, f"gives no example among {len(corpus.documents)} documents")
    write_examples(args.output, examples)
    counts = Counter(example.group for example in examples)
    print("\n".join(f"{style:<9} {counts[style]:>7}" for style in args.styles))
    return 0
