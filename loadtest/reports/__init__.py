"""What came of a run of load: measures, tables, pages, comparisons.

A package of its own because it reads runs and nothing else: whoever made the load, live or
virtual, is unknown here.
"""
