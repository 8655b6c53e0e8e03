#!/usr/bin/env bash
# A Slurm on this machine, for trying job scripts: real slurmctld, slurmd and munged, without systemd.
#
#   scripts/dev/slurm_local.sh start DIR    installs Slurm where it is missing, starts it, says how many nodes there are
#   scripts/dev/slurm_local.sh stop DIR     ends its jobs and daemons; the logs stay in DIR
#
# Two nodes, n1 and n2, each with its own hostname, processes, /dev/shm and TMPDIR, where this machine allows
# namespaces, else one. Each claims 16 CPUs, whatever there are. Everything is under DIR, on free ports: several run side
# by side.
# Needs root. Then: export SLURM_CONF=DIR/slurm.conf
set -euo pipefail

usage() { echo "usage: scripts/dev/slurm_local.sh start|stop DIR" >&2; exit 2; }
fail() { echo "slurm_local.sh: $*" >&2; exit 1; }
(($# == 2)) || usage
command=$1
dir=$(realpath -m "$2")
export SLURM_CONF=$dir/slurm.conf

install_packages() {
  local program
  for program in munged slurmctld slurmd srun; do
    command -v "$program" >/dev/null && continue
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends slurm-wlm munge libpmix-dev >/dev/null
    return
  done
}

# on_node NAME COMMAND: the shell that runs it is the node's first process; with it, everything on the node ends.
on_node() {
  exec setsid unshare --mount --uts --pid --fork --kill-child --mount-proc \
    bash -c 'hostname "$1" && mount -t tmpfs tmpfs /dev/shm && mount -t tmpfs tmpfs "$0" && eval "$2"' "$dir/tmp" "$@"
}

free_ports() {
  python3 - "$1" <<'PYTHON'
import socket, sys
sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(int(sys.argv[1]))]
print(*(s.getsockname()[1] for s in sockets))
PYTHON
}

write_config() {
  printf '#!/bin/sh\necho export TMPDIR=%q\n' "$dir/tmp" >"$dir/task_prolog"
  chmod +x "$dir/task_prolog"
  local ports i
  read -ra ports < <(free_ports $((1 + ${#nodes[@]})))
  cat >"$SLURM_CONF" <<CONF
ClusterName=local
SlurmctldHost=$(hostname)(127.0.0.1)
SlurmctldPort=${ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$dir/run/munge.socket,cred_expire=5
CredType=cred/munge
CryptoType=crypto/munge
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool/%n
SlurmctldPidFile=$dir/run/slurmctld.pid
SlurmdPidFile=$dir/spool/%n.pid
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdLogFile=$dir/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
TaskProlog=$dir/task_prolog
TmpFS=$dir/tmp
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
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
  for i in "${!nodes[@]}"; do
    echo "NodeName=${nodes[i]} NodeAddr=127.0.0.1 Port=${ports[i + 1]} CPUs=16 RealMemory=4000" >>"$SLURM_CONF"
  done
}

start_node() {
  local slurmd="slurmd -D -N $1 -f '$SLURM_CONF'"
  if ((${#nodes[@]} == 1)); then
    eval "exec setsid $slurmd"
  else
    on_node "$1" "$slurmd & wait"  # a shell that waits reaps the orphans of the jobs
  fi
}

start() {
  [[ -z $(daemons) ]] || fail "$dir: it is running; stop it first"
  install_packages
  rm -rf "$dir"/{run,state,spool,log,tmp}
  mkdir -p "$dir"/{run,state,spool,log,tmp} && mkdir -p -m 700 "$dir/munge"
  (umask 077 && head -c 128 /dev/urandom >"$dir/munge/key")
  nodes=("$(hostname)")
  if (on_node n1 true) 2>"$dir/log/namespaces.log"; then nodes=(n1 n2); fi
  write_config
  munged --key-file="$dir/munge/key" --socket="$dir/run/munge.socket" --pid-file="$dir/run/munged.pid" \
    --log-file="$dir/munge/munged.log" --seed-file="$dir/munge/seed" --force
  slurmctld -c -f "$SLURM_CONF"
  local node
  for node in "${nodes[@]}"; do
    (start_node "$node") </dev/null &>"$dir/log/$node.out" &
    echo $! >"$dir/run/$node.pid"
  done
  if ! eventually 20 nodes_are_idle; then
    stop
    fail "the nodes did not come up; see $dir/log"
  fi
  case ${#nodes[@]} in
    1) echo "slurm_local.sh: one node, ${nodes[0]}; for two, this machine would have to allow namespaces" ;;
    2) echo "slurm_local.sh: two nodes, n1 and n2" ;;
  esac
}

stop() {
  if scontrol ping 2>/dev/null | grep -q 'is UP'; then
    scancel --user="$(id -un)"
    eventually 20 no_jobs || true
  fi
  local pids
  pids=$(daemons)
  [[ -z $pids ]] || kill -KILL $pids
  eventually 5 all_gone || fail "processes $(daemons | tr '\n' ' ')do not end"
}

# The processes of the pid files that are still ours; the number of one that is gone may have passed to a stranger.
daemons() {
  local file pid
  for file in "$dir"/run/*.pid; do
    pid=$(cat "$file" 2>/dev/null) || continue
    if grep -qF "$dir/" "/proc/$pid/cmdline" 2>/dev/null; then echo "$pid"; fi
  done
}

no_jobs() { [[ -z $(squeue -h 2>/dev/null) ]]; }
nodes_are_idle() { (($(sinfo -h -N -t idle -o %N 2>/dev/null | wc -l) == ${#nodes[@]})); }
all_gone() { [[ -z $(daemons) ]]; }

# eventually SECONDS CONDITION…: whether it came true in time.
eventually() {
  local end=$((SECONDS + $1))
  shift
  until "$@"; do
    ((SECONDS < end)) || return 1
    sleep 0.1
  done
}

case "$command" in
  start) start ;;
  stop) stop ;;
  *) usage ;;
esac
