"""Types of arguments that are checked as they are read."""

import argparse
from collections.abc import Callable


def at_least(minimum: float, kind: Callable[[str], float]) -> Callable[[str], float]:
    """A number that is not below the minimum."""

    def parse(text: str) -> float:
        value = kind(text)
        if not value >= minimum:
            raise argparse.ArgumentTypeError(f"{text} is below {minimum:g}")
        return value

    return parse
