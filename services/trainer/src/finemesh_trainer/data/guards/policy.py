"""What is done with each finding: refuse to train, drop it, cap its share, or keep it."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Literal

from finemesh_trainer.data.examples import Example
from finemesh_trainer.data.guards.copies import find_copies
from finemesh_trainer.data.guards.duplicates import find_duplicated_passages, find_repeated_pairs
from finemesh_trainer.data.guards.false_negatives import find_false_negatives
from finemesh_trainer.data.guards.findings import Finding, Guard
from finemesh_trainer.data.guards.leaks import TestSet, find_leaked_passages, find_leaked_queries
from finemesh_trainer.data.guards.templates import find_templates
from finemesh_trainer.errors import DataError, TrainerError

Action = Literal["refuse", "drop", "keep"]


@dataclass(frozen=True, slots=True)
class GuardPolicy:
    """The action for each guard. `keep` counts the findings and leaves the examples as they are.

    A false negative is dropped from its example; everything else is dropped with its example. Leaked passages are kept
    by default: questions about passages that the test set asks about as well are what in-domain training is.
    """

    leaked_queries: Action = "refuse"
    leaked_passages: Action = "keep"
    repeated_pairs: Action = "drop"
    duplicated_passages: Action = "drop"
    templates: Literal["refuse", "drop", "cap", "keep"] = "cap"
    copies: Action = "drop"
    false_negatives: Action = "drop"
    max_template_share: float = 0.1
    """What `cap` leaves of template questions, as a share of each file."""

    def __post_init__(self) -> None:
        if not 0 <= self.max_template_share < 1:
            raise ValueError(f"max_template_share is {self.max_template_share}; it must lie in [0, 1)")


@dataclass(frozen=True, slots=True)
class Guarded:
    """The examples that are left, and all that was found among those that were given."""

    examples: list[Example]
    findings: dict[Guard, list[Finding]]


def guard_examples(
    examples: Sequence[Example], tests: Sequence[TestSet], policy: GuardPolicy, seed: int = 0
) -> Guarded:
    """Looks for everything and does what the policy says. `seed` draws which template questions stay.

    Raises:
        DataError: with the first finding that is refused and how many more there are, or where no example is left.
    """
    findings = inspect(examples, tests)
    return Guarded(enforce(examples, findings, policy, seed), findings)


def enforce(
    examples: Sequence[Example], findings: dict[Guard, list[Finding]], policy: GuardPolicy, seed: int = 0
) -> list[Example]:
    """What is left of the examples; raises as `guard_examples` does."""
    for guard, found in findings.items():
        if found and getattr(policy, guard) == "refuse":
            raise refusal(examples, found)
    kept = apply_policy(examples, findings, policy, seed)
    if not kept:
        raise TrainerError("no example is left: the guards dropped all of them")
    return kept


def inspect(examples: Sequence[Example], tests: Sequence[TestSet]) -> dict[Guard, list[Finding]]:
    """All findings, by guard, in the examples' order."""
    return {
        Guard.LEAKED_QUERIES: list(find_leaked_queries(examples, tests)),
        Guard.LEAKED_PASSAGES: list(find_leaked_passages(examples, tests)),
        Guard.REPEATED_PAIRS: list(find_repeated_pairs(examples)),
        Guard.DUPLICATED_PASSAGES: list(find_duplicated_passages(examples)),
        Guard.TEMPLATES: list(find_templates(examples)),
        Guard.COPIES: list(find_copies(examples)),
        Guard.FALSE_NEGATIVES: list(find_false_negatives(examples)),
    }


def refusal(examples: Sequence[Example], found: Sequence[Finding]) -> DataError:
    """The error that names the first finding."""
    first = found[0]
    more = f"; {len(found) - 1} more {first.guard.replace('_', ' ')}" if len(found) > 1 else ""
    place = examples[first.example].place
    return DataError(place.path if place else "examples", place and place.line, f"{first.message}{more}")


def apply_policy(
    examples: Sequence[Example], findings: dict[Guard, list[Finding]], policy: GuardPolicy, seed: int
) -> list[Example]:
    """The examples without what is dropped."""
    dropped: set[int] = set()
    dropped_negatives: dict[int, set[int]] = defaultdict(set)
    for guard, found in findings.items():
        if getattr(policy, guard) == "drop":
            for finding in found:
                if finding.negative is None:
                    dropped.add(finding.example)
                else:
                    dropped_negatives[finding.example].add(finding.negative)
    if policy.templates == "cap":
        dropped.update(over_cap(examples, dropped, findings[Guard.TEMPLATES], policy.max_template_share, seed))
    return [
        without_negatives(example, dropped_negatives[index]) if index in dropped_negatives else example
        for index, example in enumerate(examples)
        if index not in dropped
    ]


def over_cap(
    examples: Sequence[Example], dropped: set[int], templates: Sequence[Finding], max_share: float, seed: int
) -> Iterator[int]:
    """Template questions, drawn at random, without which each file has no more than the share."""
    by_file = defaultdict(list)
    for finding in templates:
        if finding.example not in dropped:
            by_file[file_of(examples[finding.example])].append(finding.example)
    left = Counter(file_of(example) for index, example in enumerate(examples) if index not in dropped)
    random = Random(seed)
    for file, indices in by_file.items():
        others = left[file] - len(indices)
        allowed = int(others * max_share / (1 - max_share))
        yield from random.sample(indices, max(0, len(indices) - allowed))


def file_of(example: Example) -> object:
    """The file of an example, or None."""
    return example.place and example.place.path


def without_negatives(example: Example, dropped: set[int]) -> Example:
    """The example without some of its negatives, their ids and their scores."""

    def keep(values: tuple) -> tuple:
        return tuple(value for index, value in enumerate(values) if index not in dropped)

    return replace(
        example,
        negatives=keep(example.negatives),
        negative_ids=keep(example.negative_ids),
        negative_scores=keep(example.negative_scores),
    )
