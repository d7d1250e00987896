"""Settings of all tests."""

from __future__ import annotations

from hypothesis import settings

# A machine that is busy with something else proves nothing about a law.
settings.register_profile("jouleserve", deadline=None)
settings.load_profile("jouleserve")
