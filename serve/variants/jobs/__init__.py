"""Steps that need other libraries than serving does: programs of the compression environment.

A package of its own because nothing of it is imported by anybody: `workshop` runs each module,
in the environment that requirements/compress.txt locks. Of this project it may only import what
needs no further library.
"""
