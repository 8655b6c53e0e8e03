#!/usr/bin/env bash
# Makes a folder that runs on nodes without the development packages, wherever it is copied or mounted: programs,
# shared libraries, Open MPI with its plug-ins, jobs, settings and scripts.
#
#   scripts/bundle.sh FOLDER               builds the programs for every x86-64 processor with AVX2 first
#   scripts/bundle.sh FOLDER --build DIR   takes the programs of a build that is there
#   … --with-tests                         and what scripts/dev/gpu_checks.sh runs
#
# Left to the node: glibc (not older than here), what must fit its drivers (CUDA's own and the InfiniBand libraries), and
# of a build with CUDA the toolkit's libraries and NCCL, more than a gigabyte, which the loader must find there: a module,
# ldconfig or LD_LIBRARY_PATH says where.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() { echo "usage: scripts/bundle.sh FOLDER [--build DIR [--with-tests]]" >&2; exit 2; }
fail() { echo "bundle.sh: $*" >&2; exit 1; }

(($# == 1 || $# == 3 || $# == 4)) || usage
bundle=$1 build=build/bundle
[[ $# == 1 || $2 == --build ]] || usage
[[ $# -lt 4 || $4 == --with-tests ]] || usage
[[ ! -e $bundle ]] || fail "$bundle: is there already; name another folder"
for tool in ompi_info patchelf; do
  command -v "$tool" >/dev/null || fail "$tool: not found; scripts/install_deps.sh --bundle installs it"
done
if (($# >= 3)); then
  build=$3
else
  cmake -S . -B "$build" -G Ninja -DMTP_ARCH=x86-64-v3 -DMTP_TESTS=OFF >/dev/null
  cmake --build "$build"
fi
[[ -x $build/bin/mtp-train ]] || fail "$build/bin/mtp-train: not there; name the folder of a finished build"

# A bundle that fails half-way is none.
partial=$bundle.partial
rm -rf "$partial"
trap 'rm -rf "$partial"' EXIT
mkdir -p "$partial"/{bin,lib,libexec,mpi,tests}

cp "$build"/bin/mtp-* "$partial/libexec"
if (($# == 4)); then
  mkdir -p "$partial"/{tests/programs,tests/ops,scripts/dev}
  cp "$build"/tests/test-{tensor,ops,train-mpi,decode-mpi,parallel-mpi} "$build/tests/same-bits-inputs" "$partial/tests/programs"
  cp -r "$build/emulated" "$partial/tests"
  cp -r tests/fixtures "$partial/tests"
  cp tests/ops/reference_values.json "$partial/tests/ops"
  cp scripts/dev/{gpu_checks,own_host,same_bits}.sh "$partial/scripts/dev"
fi
strip --strip-debug "$partial"/libexec/* $( (($# == 4)) && echo "$partial"/tests/{programs,emulated}/*)
cp -r configs jobs LICENSE "$partial"
mkdir -p "$partial/scripts"
cp -r scripts/{*.py,mtp_tools,*.jsonl,python_env.sh,requirements*.txt} "$partial/scripts"
find "$partial/scripts" -name __pycache__ -prune -exec rm -r {} +

# Open MPI finds its parts below one folder, OPAL_PREFIX, where they have the places of their installation.
mpi_path() { ompi_info --path "$1" --parsable | sed 's/.*://'; }
prefix=$(mpi_path prefix)
parts=("$(mpi_path bindir)/mpirun" "$(mpi_path pkglibdir)" "$(mpi_path pkgdatadir)")
for daemon in orted prte prted; do  # up to version 4; from 5 on, where mpirun is another name of prte
  [[ ! -x $(mpi_path bindir)/$daemon ]] || parts+=("$(mpi_path bindir)/$daemon")
done
for part in "${parts[@]}"; do
  [[ $part == "$prefix"/* ]] || fail "Open MPI's $part: not below its prefix $prefix; it cannot be moved"
  mkdir -p "$partial/mpi/$(dirname "${part#"$prefix"/}")"
  cp -rL "$part" "$partial/mpi/${part#"$prefix"/}"
done

elf_files() { find "$@" -type f \( -perm -u+x -o -name '*.so' -o -name '*.so.*' \) -exec sh -c 'head -c4 "$1" | grep -q ELF' _ {} \; -print; }
of_the_node='ld-linux|lib(c|m|dl|rt|pthread|resolv|util)\.so|libcuda(rt)?\.so|libnvidia|libcublas|libnvJitLink|libnccl|libibverbs|librdmacm|libefa|libmlx|libibumad|libnl-'
libraries_of() { ldd "$@" 2>/dev/null | awk '$2 == "=>" && $3 ~ /^\// { print $3 }' | sort -u | grep -vE "/($of_the_node)"; }

mapfile -t programs < <(elf_files "$partial/libexec" "$partial/tests" "$partial/mpi")
while read -r library; do cp -L "$library" "$partial/lib"; done < <(libraries_of "${programs[@]}")

# Plug-ins of libraries, which those look for beside themselves.
while read -r library; do
  from=$(dirname "$(readlink -f "$library")")
  case ${library##*/} in
    libpmix.so.*) cp -rL "$from/pmix" "$partial/lib"; mkdir "$partial/share"; cp -r "$from/../share/pmix" "$partial/share" ;;
    libucs.so.*) cp -rL "$from/ucx" "$partial/lib" ;;
  esac
done < <(libraries_of "${programs[@]}")
mapfile -t plugins < <(elf_files "$partial"/lib/*/)
while read -r library; do cp -nL "$library" "$partial/lib"; done < <(libraries_of "${plugins[@]}")

# Everything looks for its libraries in the bundle first, relative to where it lies itself.
while read -r file; do
  patchelf --set-rpath "\$ORIGIN/$(realpath -m --relative-to="$(dirname "$file")" "$partial/lib")" "$file"
done < <(elf_files "$partial/libexec" "$partial/tests" "$partial/mpi" "$partial/lib")

cat >"$partial/bin/run" <<'END'
#!/bin/sh
# Runs the program that this was called as, with the bundle's own MPI and libraries; called as `run`, any command.
bundle=$(dirname "$(dirname "$(readlink -f "$0")")")
export OPAL_PREFIX="$bundle/mpi" PMIX_PREFIX="$bundle" PMIX_LIBDIR="$bundle/lib" PMIX_DATADIR="$bundle/share"
# Plug-ins for networks whose libraries this node does not have are left out without a word.
export OMPI_MCA_mca_base_component_show_load_errors=0 PMIX_MCA_pmix_mca_base_component_show_load_errors=0
# Open MPI refuses to start without a remote shell, which ranks of this node and of Slurm do not need.
command -v ssh >/dev/null || export OMPI_MCA_plm_rsh_agent=sh
name=$(basename "$0")
case $name in
  run) exec "$@" ;;
  mtp-*) exec "$bundle/libexec/$name" "$@" ;;
  *) exec "$bundle/mpi/bin/$name" "$@" ;;
esac
END
chmod +x "$partial/bin/run"
for program in "$partial"/libexec/mtp-* "$partial/mpi/bin/mpirun"; do ln -s run "$partial/bin/${program##*/}"; done

cat >"$partial/jobs/site.sh" <<'END'
# The programs of this bundle and its mpirun. Jobs are submitted from the bundle's folder.
MTP_BIN=$PWD/bin
PATH=$PWD/bin:$PATH
END

rmdir --ignore-fail-on-non-empty "$partial/tests"
mv "$partial" "$bundle"
trap - EXIT
echo "$bundle: $(du -sh "$bundle" | cut -f1), $(ls "$bundle"/libexec | wc -l) programs; try $bundle/bin/mtp-train --version"
