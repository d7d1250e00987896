"""Profiles of variants, measured on what serves them or on a decoder of the same shape.

A package of its own because measuring is a client's work: nothing that serves imports it.
"""
