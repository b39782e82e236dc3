"""`finemesh-trainer check`: what is wrong with training data, before anything is trained on it."""

import argparse
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args

from finemesh_trainer.data.examples import Example, write_examples
from finemesh_trainer.data.guards import Finding, Guard, GuardPolicy, enforce, inspect, read_test_set
from finemesh_trainer.data.load import load_examples
from finemesh_trainer.errors import ConfigError


def add_parser(subparsers: Any) -> None:
    """Adds `check` to the command line."""
    parser = subparsers.add_parser("check", help="look for leaks, duplicates, templates, copies and false negatives")
    parser.add_argument("train", nargs="+", type=Path, help="JSONL files of examples, or BEIR folders")
    parser.add_argument(
        "--test",
        action="append",
        default=[],
        type=Path,
        metavar="PATH",
        help="a BEIR folder or a file that nothing may leak from; can be repeated",
    )
    parser.add_argument(
        "--policy",
        action="append",
        default=[],
        metavar="GUARD=ACTION",
        help="refuse, drop, keep, and for templates cap; can be repeated",
    )
    parser.add_argument("--seed", type=int, default=0, help="draws the template questions that a cap leaves")
    parser.add_argument("--output", type=Path, metavar="FILE", help="writes the examples that are left")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints a table of findings; raises for what the policy refuses."""
    policy = parse_policy(args.policy)
    examples = load_examples(args.train)
    findings = inspect(examples, [read_test_set(path) for path in args.test])
    print(table(examples, findings, policy))
    left = enforce(examples, findings, policy, args.seed)
    print(f"{len(left)} of {len(examples)} examples are left")
    if args.output:
        write_examples(args.output, left)
    return 0


def parse_policy(settings: Sequence[str]) -> GuardPolicy:
    """The policy with some actions changed. All mistakes are told at once."""
    policy, problems = GuardPolicy(), []
    allowed = {field.name: get_args(field.type) for field in fields(GuardPolicy) if field.name in list(Guard)}
    for setting in settings:
        guard, _, action = setting.partition("=")
        if guard not in allowed:
            problems.append(f"--policy {setting}: {guard!r} is none of {', '.join(allowed)}")
        elif action not in allowed[guard]:
            problems.append(f"--policy {setting}: {action!r} is none of {', '.join(allowed[guard])}")
        else:
            policy = replace(policy, **{guard: action})
    if problems:
        raise ConfigError(problems)
    return policy


def table(examples: Sequence[Example], findings: dict[Guard, list[Finding]], policy: GuardPolicy) -> str:
    """One line for each guard: its name, how many, what is done, and the first finding with its place."""
    lines = [f"{'guard':<20} {'found':>7} {'action':<7} first"]
    for guard, found in findings.items():
        first = f"{examples[found[0].example].place}: {found[0].message}" if found else ""
        lines.append(f"{guard:<20} {len(found):>7} {getattr(policy, guard):<7} {first}".rstrip())
    return "\n".join(lines)
