#!/usr/bin/env bash
# Installs what is missing of the Debian packages that the build and the scripts need; needs no rights where nothing is.
#
#   scripts/install_deps.sh            for the programs
#   scripts/install_deps.sh --bundle   for scripts/bundle.sh too
#   scripts/install_deps.sh --tests    for the tests too
set -euo pipefail

packages=(
  cmake g++ git ninja-build ccache python3 python3-venv
  libopenmpi-dev openmpi-bin
  libbenchmark-dev libboost-dev libboost-program-options-dev libdnnl-dev libfmt-dev libhdf5-dev libpng-dev libspdlog-dev libssl-dev libtbb-dev
  libxxhash-dev nlohmann-json3-dev
)
case "${1:-}" in
  "") ;;
  --bundle) packages+=(patchelf) ;;
  --tests) packages+=(clang clang-format dpkg-dev environment-modules man-db mpich libboost-context-dev libclang-rt-14-dev libgmock-dev libgtest-dev libmpich-dev libomp-dev patchelf) ;;
  *) echo "usage: scripts/install_deps.sh [--bundle | --tests]" >&2; exit 2 ;;
esac

if ! command -v apt-get >/dev/null; then
  echo "install_deps.sh: this system has no apt-get; install the counterparts of: ${packages[*]}" >&2
  exit 1
fi

is_installed() { [[ $(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null) == installed ]]; }

missing=()
for package in "${packages[@]}"; do
  is_installed "$package" || missing+=("$package")
done
((${#missing[@]})) || exit 0

as_root=()
if ((EUID != 0)); then
  if ! command -v sudo >/dev/null; then
    echo "install_deps.sh: not root and no sudo; ask an administrator for: apt-get install ${missing[*]}" >&2
    exit 1
  fi
  as_root=(sudo)
fi

echo "Installing ${missing[*]}"
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${missing[@]}" >/dev/null
