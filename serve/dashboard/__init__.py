"""The dashboard: a read-only page of what the cluster does, and why, second by second."""
