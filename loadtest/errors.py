"""What can be wrong with what a load test is given.

    LoadtestError
    ├── TraceError          a trace file, with its line
    ├── ScenarioError       a scenario file, with its line and key
    ├── DescriptionError    a fleet description, with the place in it
    └── RunFileError        a file with a run, with what it lacks

Its own module because readers raise these and the command line alone turns them into words.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class LoadtestError(Exception):
    """A load test cannot be run as asked."""


class TraceError(LoadtestError):
    """A trace cannot be read.

    Attributes:
        path: of the file.
        line: of the fault, counted from 1; 0 for the file as a whole.

    """

    def __init__(self, path: Path, line: int, fault: str) -> None:
        super().__init__(f"{path}:{line}: {fault}" if line else f"{path}: {fault}")
        self.path = path
        self.line = line


class ScenarioError(LoadtestError):
    """A scenario file cannot be used.

    Attributes:
        path: of the file.
        line: of the fault, counted from 1; 0 for the file as a whole.
        key: at fault, such as `requests[0].share`; empty for the file as a whole.

    """

    def __init__(self, path: Path, line: int, key: str, fault: str) -> None:
        place = f"{path}:{line}" if line else f"{path}"
        super().__init__(": ".join(part for part in (place, key, fault) if part))
        self.path = path
        self.line = line
        self.key = key


class DescriptionError(LoadtestError):
    """A fleet description cannot be read, or contradicts itself.

    Attributes:
        path: of the file.

    """

    def __init__(self, path: Path, fault: str) -> None:
        super().__init__(f"{path}: {fault}")
        self.path = path


class RunFileError(LoadtestError):
    """A file holds no run that can be read.

    Attributes:
        path: of the file.

    """

    def __init__(self, path: Path, fault: str) -> None:
        super().__init__(f"{path}: {fault}")
        self.path = path
