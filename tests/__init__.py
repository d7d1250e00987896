"""A package only so that tests can share fakes; tests themselves are collected by path."""
