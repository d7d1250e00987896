"""Nodes as Kubernetes knows them, under the RayCluster of KubeRay that Ray runs in.

A package of its own because nothing else here speaks to an API server. `nodes` is the provider
that the planner holds, `settings` what it has to be told; the others are its parts.
"""
