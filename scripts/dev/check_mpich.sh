#!/usr/bin/env bash
# Builds the programs with MPICH, beside the build with Open MPI, and trains on 1 to 4 ranks of it with the same bits:
# scripts/test.sh does so. What of MPI the programs use is compiled anew; ccache has the rest from the other build.
#
#   scripts/dev/check_mpich.sh                the programs and check_ranks.py on one fixture
#   scripts/dev/check_mpich.sh 'ranks|faults' these tests in their place, and whatever they need
set -euo pipefail
cd "$(dirname "$0")/../.."
export CCACHE_NOHASHDIR=1

cmake --preset ci -B build/mpich -DMTP_CUDA=OFF -DMTP_BENCH=OFF -DMPI_CXX_COMPILER=mpicxx.mpich \
  -DMPIEXEC_EXECUTABLE="$(command -v mpiexec.mpich)" >/dev/null
if (($#)); then
  cmake --build build/mpich --target programs test-parallel-mpi
  ctest --test-dir build/mpich --output-on-failure -R "^($1)\$"
else
  cmake --build build/mpich --target mtp-train mtp-export-hf
  MTP_MPIRUN=mpiexec.mpich .venv/bin/python tests/check_ranks.py build/mpich/bin --fixture tests/fixtures/e4b
fi
