"""What goes wrong through no fault of the program: one clear sentence each, told before any training starts.

The command line prints the message alone and leaves with `exit_code`: 64 for data and configuration, as the services
do for a configuration that they refuse, and 1 for a run that failed.
"""

from collections.abc import Sequence
from pathlib import Path

EXIT_BAD_INPUT = 64
EXIT_FAILED = 1


class TrainerError(Exception):
    """A run that failed. The message is all that the user is shown."""

    exit_code = EXIT_FAILED


class DataError(TrainerError):
    """A file that cannot be used: `path:line: message`. Without a line the whole file is meant."""

    exit_code = EXIT_BAD_INPUT

    def __init__(self, path: str | Path, line: int | None, message: str) -> None:
        self.path = Path(path)
        self.line = line
        self.message = message
        place = str(path) if line is None else f"{path}:{line}"
        super().__init__(f"{place}: {message}")


class ConfigError(TrainerError):
    """A configuration that is refused, with all of its problems at once."""

    exit_code = EXIT_BAD_INPUT

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))
