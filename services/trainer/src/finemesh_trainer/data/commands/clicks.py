"""`finemesh-trainer clicks`: a click log to weighted examples."""

import argparse
from pathlib import Path
from typing import Any

from finemesh_trainer.data.beir import read_corpus
from finemesh_trainer.data.click_log import read_click_log
from finemesh_trainer.data.clicks import DEFAULT_MAX_WEIGHT, WeighedClicks, weigh_clicks
from finemesh_trainer.data.commands.arguments import at_least
from finemesh_trainer.data.examples import write_examples
from finemesh_trainer.data.propensities import estimate_propensities, read_propensities


def add_parser(subparsers: Any) -> None:
    """Adds `clicks` to the command line."""
    parser = subparsers.add_parser("clicks", help="turn a click log into examples, corrected for position bias")
    parser.add_argument("log", type=Path, help="JSONL: query, and what was shown where, clicked and read")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="the examples, JSONL or JSONL.gz")
    parser.add_argument("--corpus", type=Path, metavar="FILE", help="the passages, where the log has only their ids")
    parser.add_argument(
        "--propensities",
        type=Path,
        metavar="FILE",
        help='given ones, JSONL: {"position": 1, "propensity": 1.0}; without, they are estimated from the log',
    )
    parser.add_argument(
        "--min-dwell-s",
        type=at_least(0, float),
        default=0.0,
        metavar="S",
        help="a click that was read for a shorter time counts as none",
    )
    parser.add_argument(
        "--max-weight",
        type=at_least(1, float),
        default=DEFAULT_MAX_WEIGHT,
        metavar="W",
        help="no click counts for more than this many at the position looked at most (default: %(default)g)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Writes the examples, and prints the propensities and what could not be used."""
    corpus = read_corpus(args.corpus) if args.corpus else None
    log = read_click_log(args.log, corpus, args.min_dwell_s)
    propensities = read_propensities(args.propensities) if args.propensities else estimate_propensities(log)
    weighed = weigh_clicks(log, propensities, args.max_weight)
    write_examples(args.output, weighed.examples)
    print(report(propensities, weighed))
    return 0


def report(propensities: dict[int, float], weighed: WeighedClicks) -> str:
    """Propensities by position, and counts."""
    lines = ["position  propensity"]
    lines += [f"{position:>8}  {propensity:>10.3f}" for position, propensity in sorted(propensities.items())]
    lines.append(f"{len(weighed.examples)} examples from {weighed.clicks} clicks in {weighed.views} views")
    if weighed.views_without_propensity:
        lines.append(f"{weighed.views_without_propensity} views at positions without a propensity are left out")
    if weighed.clicks_without_negative:
        lines.append(f"{weighed.clicks_without_negative} clicks had no less relevant passage beside them")
    return "\n".join(lines)
