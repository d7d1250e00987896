#!/usr/bin/env bash
# Makes the environment in which variants are compressed: compression_environment.sh FOLDER LOCK
#
# PYTHON=...  the interpreter that it is made of; its folder, or the path, holds uv.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=$1 lock=$2
uv="$(dirname "$PYTHON")/uv"
[ -x "$uv" ] || uv=$(command -v uv) || {
    echo "uv makes the compression environment, and is not installed: pip install uv" >&2
    exit 1
}
VENV=$(dirname "$(dirname "$PYTHON")")
. "$here/pip_settings.sh"
adopt_pip_settings
find_cpu_torch
"$uv" venv --quiet --relocatable --allow-existing --python "$PYTHON" "$folder"
# shellcheck disable=SC2086  # several words
VIRTUAL_ENV="$folder" "$uv" pip sync --quiet $TORCH_OPTIONS "$lock"
