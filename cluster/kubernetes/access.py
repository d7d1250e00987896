"""The rights that `nodes` needs, as data for whoever writes roles.

Its own module because it is read by people who grant rights, and by a test that takes them
away one by one.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AccessRule:
    """A rule of a Role, or of a ClusterRole.

    Attributes:
        api_groups: of the resources; the core group is "".
        resources: plural names.
        verbs: that are used.
        cluster_wide: belongs in a ClusterRole; else in a Role of the RayCluster's namespace.
        nameable: may be narrowed to the RayCluster's name by resourceNames.

    """

    api_groups: tuple[str, ...]
    resources: tuple[str, ...]
    verbs: tuple[str, ...]
    cluster_wide: bool = False
    nameable: bool = False


def required_rules() -> tuple[AccessRule, ...]:
    """Give every right that is needed, and no other."""
    return (
        AccessRule(("",), ("nodes",), ("get", "list", "watch", "patch"), cluster_wide=True),
        AccessRule(("",), ("pods",), ("list", "watch")),
        AccessRule(("",), ("events",), ("list", "watch")),
        AccessRule(("ray.io",), ("rayclusters",), ("get", "list", "watch", "patch"), nameable=True),
    )
