"""Ray Serve deployments, their configuration and the command line."""
