"""The configuration that is used when the user gives none.

Its own module because it chooses by looking at the machine, which parsing never does.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from serve.config_file import parse_config

if TYPE_CHECKING:
    from serve.config import Config

CPU_FILE = "default.yaml"
CUDA_FILE = "default-cuda.yaml"
_NVIDIA_CONTROL = Path("/dev/nvidiactl")


def load_default() -> Config:
    """Read the embedded configuration that suits this machine.

    Raises:
        ConfigFileError: what it needs is not installed.

    """
    file = CUDA_FILE if _NVIDIA_CONTROL.exists() else CPU_FILE
    text = resources.files("serve").joinpath(file).read_text(encoding="utf-8")
    return parse_config(text, file=f"embedded {file}", directory=Path.cwd())
