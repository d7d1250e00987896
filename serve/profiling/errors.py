"""Why no profile can be measured.

    ProfilingError          the message says what to change
    ├── SubjectError        the cluster has no replica that can be measured by itself
    └── TooLittleError      what was measured is no profile

Its own module because measuring raises these, and the command line turns them into words.
"""

from __future__ import annotations


class ProfilingError(Exception):
    """A profile cannot be measured as asked."""


class SubjectError(ProfilingError):
    """There is no replica that can be measured by itself."""


class TooLittleError(ProfilingError):
    """Too few points could be measured."""
