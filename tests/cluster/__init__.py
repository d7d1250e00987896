"""A package only so that these tests can share what starts, watches and stops a cluster."""
