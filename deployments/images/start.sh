#!/bin/sh
# Every container of simyard begins here: makes the folders that an empty volume lacks, then becomes the command.
set -eu

if ! mkdir -p "$HOME" "$PREFECT_HOME" "$SIMYARD_HOME/cache/https" ${WARP_CACHE_PATH:+"$WARP_CACHE_PATH"} \
    ${CUDA_CACHE_PATH:+"$CUDA_CACHE_PATH"} ${__GL_SHADER_DISK_CACHE_PATH:+"$__GL_SHADER_DISK_CACHE_PATH"} \
    "$SIMYARD_HOME/cache/kit-cache" "$SIMYARD_HOME/cache/kit-data" || ! [ -w "$SIMYARD_HOME" ]; then
    echo "simyard: user $(id -u) cannot write in $SIMYARD_HOME. Give what is mounted there to that user: chown -R $(id -u):$(id -g) FOLDER" >&2
    exit 1
fi
# Isaac Lab keeps what it downloads of NVIDIA's assets in the folder for temporary files, which a container loses.
mirror="${TMPDIR:-/tmp}/https"
[ -e "$mirror" ] || ln -s "$SIMYARD_HOME/cache/https" "$mirror" || true

exec "$@"
