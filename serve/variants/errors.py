"""What ends a pipeline.

Its own module because every part raises it and none depends on another for that.
"""


class BuildError(Exception):
    """A variant cannot be made; the message says what to change."""
