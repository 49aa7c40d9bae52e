#!/usr/bin/env bash
# Installs simyard twice: with Prefect into a virtual environment of its own, and bare into Isaac Lab's Python.
#     install.sh PREFIX [PYTHON [PACKAGE...]]
# PREFIX is the new environment; PYTHON is Isaac Lab's, and PACKAGEs are what the runner needs there besides simyard.
# PHYSX are packages that get nothing of what they require: PhysX names older tools than those that Isaac Lab has.
# UV names a uv to use, SUPERVISOR_PYTHON another Python than 3.12 for the environment (constraints.txt is for 3.12).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
prefix=$1
python=${2:-}
shift $(($# < 2 ? $# : 2))
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Packages may come from several indexes; the best version counts, not the first index.
export UV_INDEX_STRATEGY="${UV_INDEX_STRATEGY:-unsafe-best-match}"

if [ -z "${UV:-}" ]; then
    python3 -m venv "$work/uv"
    "$work/uv/bin/python" -m pip install --quiet uv
    UV="$work/uv/bin/uv"
fi

# The checkout may be read-only, and a build writes beside its sources.
mkdir "$work/source"
(cd "$root" && cp -r pyproject.toml README.md LICENSE blocks cli core deployments flows runner sdk service store tasks "$work/source")
"$UV" build --quiet --wheel --out-dir "$work" "$work/source"
wheel=$(echo "$work"/simyard-*.whl)

# Should this image have no such Python, uv fetches one, to where every user may read it.
UV_PYTHON_INSTALL_DIR="$(dirname "$prefix")/python" "$UV" venv --quiet --python "${SUPERVISOR_PYTHON:-3.12}" "$prefix"
"$UV" pip install --quiet --python "$prefix/bin/python" --constraint "$root/constraints.txt" "$wheel"
install --mode 755 "$here/start.sh" "$prefix/start"
install --mode 755 "$here/worker.sh" "$prefix/worker"

if [ -n "$python" ]; then
    # python.sh of Isaac Sim is a script around it.
    interpreter=$("$python" -c 'import sys; print(sys.executable)' | tail -n 1)
    # What Isaac Lab came with stays as it is: a package that wants anything newer stops the build here.
    "$UV" pip list --quiet --python "$interpreter" --format freeze >"$work/there.txt"
    [ $# = 0 ] || "$UV" pip install --quiet --python "$interpreter" --constraint "$work/there.txt" "$@"
    # shellcheck disable=SC2086  # words, one a package
    [ -z "${PHYSX:-}" ] || "$UV" pip install --quiet --python "$interpreter" --constraint "$work/there.txt" --no-deps $PHYSX
    "$UV" pip install --quiet --python "$interpreter" --no-deps "$wheel"
    # Its command lacks what it needs there, and that folder may come first on the path.
    rm -f "$("$interpreter" -c 'import sysconfig; print(sysconfig.get_path("scripts"))')/simyard"
    (cd "$work" && "$python" -c 'import simyard.runner.session')
fi
(cd "$work" && PREFECT_HOME="$work/prefect" "$prefix/bin/python" -c 'import simyard.flows.run_job')
