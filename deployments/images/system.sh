#!/usr/bin/env bash
# Prepares a Debian or Ubuntu image as root: an init, a user, and the folders of a site.
#     system.sh UID [PACKAGE...]      UID will run it; PACKAGEs are further ones of the distribution
set -euo pipefail
uid=$1
shift

export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends tini ca-certificates "$@" >/dev/null
# install.sh gets uv through a virtual environment; python images have what that needs, a distribution packages it apart.
python3 -c 'import ensurepip' 2>/dev/null || apt-get install -y -qq --no-install-recommends python3-venv >/dev/null
rm -rf /var/lib/apt/lists/*

# torch and Kit ask for the name of their user.
getent passwd "$uid" >/dev/null || useradd --uid "$uid" --user-group --create-home simyard

# A named volume takes the owner of the folder that it is mounted on: the home, and a store that containers share.
install --directory --owner "$uid" --group "$uid" "$SIMYARD_HOME" /data /run/simyard
# Kit keeps these two where it is installed. As links they lie in the home, which is the one volume that is mounted.
if [ -d /isaac-sim/kit ]; then
    for name in cache data; do
        rm -rf "/isaac-sim/kit/$name"
        ln -s "$SIMYARD_HOME/cache/kit-$name" "/isaac-sim/kit/$name"
    done
fi
