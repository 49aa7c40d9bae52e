#!/usr/bin/env bash
# Builds .venv with simyard and the embedded simulator. Needs Python 3.12 and a package index, nothing else.
set -euo pipefail
cd "$(dirname "$0")/.."

# What the environment is made from: a new source file needs the install step again, so file names count too.
stamp=$( { cat pyproject.toml constraints.txt "$0"; find core sdk cli flows tasks runner blocks store service deployments -name '*.py' -o -name '*.usda' -o -name '*.yaml' -o -name '*.json' -o -path '*/templates/*' | sort; } | sha256sum | cut -d' ' -f1)
if [ -x .venv/bin/simyard ] && [ "$(cat .venv/.simyard-stamp 2>/dev/null)" = "$stamp" ]; then exit 0; fi

is_312() { [ -x "$1" ] && [ "$("$1" -c 'import sys; print(sys.version_info[:2] == (3, 12))' 2>/dev/null)" = True ]; }

find_python() {
    local found
    for found in "$(command -v python3.12 || true)" "$(command -v python3 || true)"; do
        if [ -n "$found" ] && is_312 "$found"; then echo "$found"; return; fi
    done
    if command -v pyenv >/dev/null; then
        for found in "$(pyenv root)"/versions/3.12*/bin/python3.12; do
            if is_312 "$found"; then echo "$found"; return; fi
        done
    fi
    if command -v uv >/dev/null && { found=$(uv python find 3.12 2>/dev/null) || { uv python install 3.12 >&2 && found=$(uv python find 3.12); }; }; then
        echo "$found"; return
    fi
    return 1
}

if [ ! -x .venv/bin/python ]; then
    if ! python=$(find_python); then
        echo "setup: no Python 3.12 found on PATH, in pyenv or through uv; Isaac Lab 3.0.0 needs exactly 3.12." >&2
        echo "setup: install one (for example 'pyenv install 3.12' or 'pip install uv') and run this again." >&2
        exit 1
    fi
    echo "setup: making .venv with $("$python" -V)"
    "$python" -m venv .venv
fi
if [ ! -x .venv/bin/uv ]; then .venv/bin/python -m pip install --quiet uv; fi

echo "setup: installing simyard and Isaac Lab 3.0.0 into .venv (9.4 GB; under a minute on a fast line)"
VIRTUAL_ENV="$PWD/.venv" UV_INDEX_STRATEGY="${UV_INDEX_STRATEGY:-unsafe-best-match}" .venv/bin/uv pip install --quiet \
    --constraint constraints.txt --reinstall-package simyard --editable '.[isaaclab,physx,view,test]'

# Installers leave Python's bytecode to the first start, and where that may not write it, to every start: seconds each.
compile() { env -u PYTHONDONTWRITEBYTECODE .venv/bin/python -c "$1" >/dev/null 2>&1 || true; }
compile 'from simyard.cli.main import main; [*main.commands.values()]
import simyard.deployments.apply, simyard.service.app, prefect.server.api.server, prefect.cli.server' &
compile 'from simyard.runner.simulators import get_adapter
adapter = get_adapter("isaaclab")
for library in ("rsl_rl", "rl_games", "skrl", "sb3"):
    adapter.preload(library)
adapter.import_rest()
import isaaclab_ov.assets.articulation.articulation, isaaclab_ov.physics.ovphysx_manager
import isaaclab_newton.assets, isaaclab_newton.physics.kamino_manager, newton.viewer, newton.solvers, onnx, tensorboard'
wait
echo "$stamp" > .venv/.simyard-stamp
echo "setup: done"
