#!/usr/bin/env bash
# A Slurm of one node on this machine, for trying job scripts: real slurmctld, slurmd and munged, without systemd.
#
#   scripts/slurm_local.sh start DIR    installs Slurm where it is missing, starts it with everything under DIR
#   scripts/slurm_local.sh stop DIR
#
# Needs root. Then: export SLURM_CONF=DIR/slurm.conf
set -euo pipefail

usage() { echo "usage: scripts/slurm_local.sh start|stop DIR" >&2; exit 2; }
(($# == 2)) || usage
command=$1
dir=$(realpath -m "$2")

stop() {
  local pid_file
  for pid_file in "$dir"/run/{slurmd,slurmctld,munged}.pid; do
    [[ -e $pid_file ]] && kill "$(<"$pid_file")" 2>/dev/null || true
  done
}

write_config() {
  cat >"$dir/slurm.conf" <<EOF
ClusterName=local
SlurmctldHost=$(hostname)(127.0.0.1)
SlurmctldPort=16817
SlurmdPort=16818
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$dir/run/munge.socket,cred_expire=5
CredType=cred/munge
CryptoType=crypto/munge
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/run/slurmctld.pid
SlurmdPidFile=$dir/run/slurmd.pid
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdLogFile=$dir/log/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,sched_min_interval=100000
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/none
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
JobRequeue=1
KillWait=10
MinJobAge=300
InactiveLimit=0
MailProg=/bin/true
SlurmdParameters=config_overrides
NodeName=$(hostname) NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=4000 State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
EOF
}

start() {
  if ! command -v slurmctld munged >/dev/null; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends slurm-wlm munge >/dev/null
  fi
  mkdir -p "$dir"/{run,state,spool,log} && mkdir -p -m 700 "$dir/munge"
  (umask 077 && head -c 128 /dev/urandom >"$dir/munge/key")
  write_config
  munged --key-file="$dir/munge/key" --socket="$dir/run/munge.socket" --pid-file="$dir/run/munged.pid" \
    --log-file="$dir/munge/munged.log" --seed-file="$dir/munge/seed" --force
  slurmctld -c -f "$dir/slurm.conf"
  slurmd -f "$dir/slurm.conf"
  local tries
  for ((tries = 0; tries < 100; ++tries)); do
    [[ $(SLURM_CONF=$dir/slurm.conf sinfo -h -o %T 2>/dev/null) == idle ]] && return
    sleep 0.2
  done
  echo "slurm_local.sh: the node did not come up; see $dir/log" >&2
  exit 1
}

case "$command" in
  start) start ;;
  stop) stop ;;
  *) usage ;;
esac
