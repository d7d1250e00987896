"""Protocol buffers of Jouleserve."""
