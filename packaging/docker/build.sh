#!/bin/sh
# In a container, where the repository is /src: builds it with the given options of CMake and leaves the Debian package
# /mtp.deb. The Dockerfile and the Apptainer definition share it.
set -eu
apt-get update
apt-get install -y --no-install-recommends bash dpkg-dev
cd /src
rm -rf build  # of another folder, where the repository was copied with it
bash scripts/install_deps.sh
cmake --preset release -DMTP_TESTS=OFF -DMTP_BENCH=OFF -DMTP_WERROR=OFF -DMTP_ARCH=x86-64-v3 "$@"
cmake --build --preset release
cpack --config build/release/CPackConfig.cmake -B build/package
mv build/package/*.deb /mtp.deb
