"""Settings of all tests."""

from __future__ import annotations

import signal

from hypothesis import settings

# A machine that is busy with something else proves nothing about a law.
settings.register_profile("jouleserve", deadline=None)
settings.load_profile("jouleserve")

# Whoever starts tests in the background of a shell has them ignore Ctrl-C, and all that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
