"""Variants made, measured and gated: from a recipe to a checkpoint with a manifest.

A package of its own because nothing here serves a request. `build` is the pipeline, `recipe`
what people write, `manifest` what comes of it; `jobs` runs in an environment of its own.
"""
