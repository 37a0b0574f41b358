#!/usr/bin/env bash
# Runs launch/slurm.sbatch for real: makes a Slurm cluster of this machine
# alone in a temporary folder, submits the script with two tasks on the one
# node, shows what it prints, and takes the cluster down again.
#   benchmarks/slurm_one_node.sh [flags of `moco-tf pretrain`]
# Without flags a few steps of the quickstart's configuration are trained.
#
# Needs root and, on Debian, apt-get install slurm-wlm munge.
# TASKS=2 is the number of tasks; variables of sbatch (SBATCH_TIMELIMIT=2,
# SBATCH_SIGNAL=USR1@60) and of launch/slurm.sbatch are passed on.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
tasks=${TASKS:-2}

check_machine() {
    local name missing=""
    for name in munged slurmctld slurmd sbatch; do
        PATH=$PATH:/usr/sbin command -v "$name" >/dev/null || missing+=" $name"
    done
    if [ -n "$missing" ] || [ "$(id -u)" -ne 0 ]; then
        echo "Slurm's programs must be installed, and started as root." \
            "Missing:${missing:- none}; user $(id -un)." \
            "On Debian, as root: apt-get install slurm-wlm munge" >&2
        exit 1
    fi
    export PATH=$PATH:/usr/sbin
}

# A machine's real cores are overridden: two tasks run on one core as well.
# A short life of the credentials is what lets a requeued job start again
# after seconds instead of two minutes.
write_configuration() {
    local host port
    host=$(hostname -s)
    port=$(shuf -i 20000-29998 -n 1)
    cat >"$SLURM_CONF" <<END
ClusterName=one
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmdPort=$((port + 1))
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket,cred_expire=5
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
MpiDefault=none
KillWait=30
NodeName=$host NodeAddr=127.0.0.1 CPUs=$tasks
PartitionName=main Nodes=$host Default=YES MaxTime=INFINITE
END
}

# setsid: Ctrl-C is for this script, which needs the daemons to end the job.
start_cluster() {
    local socket=$folder/munge.socket _
    mkdir -m 700 "$folder/munge" "$folder/state" "$folder/spool"
    (umask 077 && head -c 1024 /dev/urandom >"$folder/munge/key")
    setsid munged --foreground --socket="$socket" \
        --key-file="$folder/munge/key" --pid-file="$folder/munge/pid" \
        --seed-file="$folder/munge/seed" --log-file="$folder/munge/log" \
        >"$folder/munged.log" 2>&1 &
    daemons+=($!)
    for _ in {1..50}; do
        [ ! -S "$socket" ] || break
        sleep 0.1
    done
    setsid slurmctld -D >"$folder/slurmctld.log" 2>&1 &
    daemons+=($!)
    setsid slurmd -D >"$folder/slurmd.log" 2>&1 &
    daemons+=($!)
    for _ in {1..60}; do
        if [ "$(sinfo --noheader --format=%T 2>/dev/null)" = idle ]; then
            return 0
        fi
        sleep 0.5
    done
    echo "The cluster did not come up within 30 s. Its logs:" >&2
    tail -n 20 "$folder"/*.log >&2
    exit 1
}

stop_cluster() {
    local status=$? _
    trap - EXIT
    if [ ${#daemons[@]} -ge 3 ]; then
        scancel --user=root >/dev/null 2>&1 || true
        for _ in {1..100}; do
            [ -n "$(squeue --noheader 2>/dev/null)" ] || break
            sleep 0.5
        done
    fi
    kill "${daemons[@]}" 2>/dev/null || true
    wait "${daemons[@]}" 2>/dev/null || true
    rm -rf "$folder"
    exit "$status"
}

check_machine
folder=$(mktemp -d)
chmod 711 "$folder" # munge wants its socket's folder open to everyone
export SLURM_CONF=$folder/slurm.conf
daemons=()
trap stop_cluster EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
write_configuration
start_cluster
echo "$(sinfo --version), one node of $tasks CPUs"

if [ $# -eq 0 ]; then
    set -- --config=quickstart --workdir="$folder/run" \
        --config.train.max_steps=20 --config.log.every_steps=5 \
        --config.knn.baseline=false
fi
touch "$folder/job.out"
tail -n +1 -f "$folder/job.out" &
daemons+=($!)
cd "$root"
job=$(sbatch --parsable --ntasks-per-node="$tasks" \
    --output="$folder/job.out" launch/slurm.sbatch "$@")
while [ -n "$(squeue --noheader --jobs="$job" 2>/dev/null)" ]; do sleep 1; done
sleep 1 # for the last lines
field() { scontrol show job "$job" | sed -n "s/.*\b$1=\([^ ]*\).*/\1/p"; }
IFS=: read -r status signal <<<"$(field ExitCode)"
echo "$(field JobState) with status $status, signal $signal," \
    "$(field Restarts) restarts."
[ "$signal" -eq 0 ] || status=$((128 + signal))
exit "$status"
