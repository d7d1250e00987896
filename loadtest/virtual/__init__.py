"""A cluster that exists as arithmetic, under the live scheduler and planner."""
