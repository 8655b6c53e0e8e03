#!/bin/sh
# Runs a rank as if it had a machine of its own. NCCL refuses ranks that share a GPU on one machine; these it lets
# exchange tensors, over sockets: slow, but NCCL itself, with its errors and its abort, on a single card.
#   mpirun -n 2 scripts/dev/own_host.sh PROGRAM ARGUMENT…
# Few blocks for each rank: all must fit the card beside each other.
export NCCL_HOSTID="rank-${OMPI_COMM_WORLD_RANK:-${PMI_RANK:-$SLURM_PROCID}}"
export NCCL_NET=Socket NCCL_SOCKET_IFNAME=lo NCCL_MNNVL_ENABLE=0 NCCL_NVLS_ENABLE=0 NCCL_MAX_CTAS=2
exec "$@"
