"""What spoils training data, one file each: leaks, duplicates, template questions, copies and false negatives.

`guard_examples` looks for all of them and does with each what the policy says.
"""

from finemesh_trainer.data.guards.findings import Finding, Guard
from finemesh_trainer.data.guards.leaks import TestSet, read_test_set
from finemesh_trainer.data.guards.policy import Guarded, GuardPolicy, enforce, guard_examples, inspect

__all__ = [
    "Finding",
    "Guard",
    "GuardPolicy",
    "Guarded",
    "TestSet",
    "enforce",
    "guard_examples",
    "inspect",
    "read_test_set",
]
