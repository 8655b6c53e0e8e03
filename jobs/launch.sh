# Sourced by the job scripts, in the repository: where the programs are and how their ranks are started.

if [[ -e jobs/site.sh ]]; then source jobs/site.sh; fi

# In the repository they are where it builds them; installed ones are on the path.
bin=${MTP_BIN:-build/release/bin}
if [[ -z ${MTP_BIN:-} && ! -x $bin/mtp-train ]] && command -v mtp-train >/dev/null; then bin=$(dirname "$(command -v mtp-train)"); fi
if [[ ! -x $bin/mtp-train ]]; then
  echo "$bin/mtp-train: is not there; build the programs (README.md), load their module, or set MTP_BIN in jobs/site.sh" >&2
  exit 2
fi

# mpirun comes with the MPI that the programs were built with. A site without it has srun, if Slurm knows PMIx.
if [[ -z ${MTP_LAUNCH:-} ]]; then
  MTP_LAUNCH="srun --mpi=pmix"
  if command -v mpirun >/dev/null; then MTP_LAUNCH="mpirun --bind-to none"; fi
fi
read -ra launch <<<"${MTP_LAUNCH_PREFIX:-} $MTP_LAUNCH"

# For srun, which no longer takes --cpus-per-task over from sbatch, and which by itself would leave the other ranks
# waiting for one that has died.
if [[ -n ${SLURM_CPUS_PER_TASK:-} ]]; then export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK; fi
export SLURM_WAIT=${SLURM_WAIT:-30}
