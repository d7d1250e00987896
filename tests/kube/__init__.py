"""A package only so that these tests can share a control plane and what stands in for KubeRay."""
