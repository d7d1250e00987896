"""The wire, and the Python client that speaks it."""
