#!/usr/bin/env bash
# Packs what a machine needs that has a GPU and CUDA's libraries, but no MPI, HDF5, Boost or oneDNN, to run
# scripts/dev/gpu_checks.sh: programs, tests and benchmarks for x86-64-v3 and compute capability 9.0.
#
#   scripts/dev/gpu_kit.sh               builds in build/kit first
#   scripts/dev/gpu_kit.sh --build DIR   takes the programs of a build that is there
#
# Writes build/gpu-kit.tar.xz. On the machine: tar xf gpu-kit.tar.xz && gpu-kit/scripts/dev/gpu_checks.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
build=build/kit
case "$#:${1:-}" in
  0:)
    cmake -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo -DMTP_ARCH=x86-64-v3 -DMTP_CUDA=ON \
      -DCMAKE_CUDA_ARCHITECTURES=90 >/dev/null
    cmake --build "$build" --target programs benchmarks gpu-kit-tests
    ;;
  2:--build) build=$2 ;;
  *) echo "usage: scripts/dev/gpu_kit.sh [--build DIR]" >&2; exit 2 ;;
esac
mkdir -p build
folder=$(mktemp -d)
trap 'rm -rf "$folder" build/gpu-kit.tar.xz.partial' EXIT
scripts/bundle.sh "$folder/gpu-kit" --build "$build" --with-tests
# A dictionary that holds all programs: they are linked with the same libraries.
tar -C "$folder" -c gpu-kit | xz --threads=1 --lzma2=preset=6,dict=256MiB >build/gpu-kit.tar.xz.partial
mv build/gpu-kit.tar.xz.partial build/gpu-kit.tar.xz
du -h build/gpu-kit.tar.xz
