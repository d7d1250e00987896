#!/bin/bash
# jouleserve variants, with the compression environment of the image: jouleserve-compress build RECIPE
#
# The cache is a volume, which would hide what the image has in the same place: a folder of links
# shows both.
set -euo pipefail
kept=$JOULESERVE_CACHE
seen=$(mktemp --directory)
mkdir -p "$kept/checkpoints" "$kept/variants"
ln -s "$kept/checkpoints" "$kept/variants" /opt/compression/environments "$seen"
export JOULESERVE_CACHE=$seen
exec jouleserve variants "$@"
