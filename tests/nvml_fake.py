"""NVML with one GPU that lives in a file, so that several processes see the same.

Its own module because a process of its own imports it by name.
"""

from __future__ import annotations

import os
from pathlib import Path

GPU = "GPU-1"
LEAST_MW, MOST_MW, DEFAULT_MW = 200_000, 700_000, 700_000
PLACE = "FAKE_NVML_FILE"


class NVMLError(Exception):
    """What NVML raises."""


class NVMLError_NoPermission(NVMLError):  # noqa: N801, N818 (NVML's name)
    """The caller is not root."""


def _file() -> Path:
    return Path(os.environ[PLACE])


def nvmlInit() -> None:  # noqa: N802
    if not _file().exists():
        raise NVMLError("Driver Not Loaded")


def nvmlShutdown() -> None:  # noqa: N802
    """End."""


def nvmlDeviceGetHandleByUUID(gpu: str) -> str:  # noqa: N802
    if gpu != GPU:
        raise NVMLError("Not Found")
    return gpu


def nvmlDeviceGetPowerManagementLimitConstraints(handle: str) -> tuple[int, int]:  # noqa: N802
    return LEAST_MW, MOST_MW


def nvmlDeviceGetPowerManagementLimit(handle: str) -> int:  # noqa: N802
    return int(_file().read_text())


def nvmlDeviceSetPowerManagementLimit(handle: str, limit_mw: int) -> None:  # noqa: N802
    if os.environ.get("FAKE_NVML_USER"):
        raise NVMLError_NoPermission("Insufficient Permissions")
    _file().write_text(str(limit_mw))
