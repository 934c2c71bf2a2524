#!/usr/bin/env bash
# A study on SLURM: a Ray cluster over the nodes of one job, for the time of the job. docs/cluster.md explains.
#   sbatch deploy/slurm.sh [experiments/FILE.py]      in the project's folder, on storage that all nodes share
#SBATCH --job-name=normstudy
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=16G
#SBATCH --time=08:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=normstudy-%j.log
#SBATCH --signal=B:USR1@180
set -euo pipefail
umask 077 # the token and the log are for this user alone

fail() {
    echo "slurm.sh: error: $*" >&2
    exit 2
}
[[ -n "${SLURM_JOB_ID:-}" && -n "${SLURMD_NODENAME:-}" ]] || fail "no SLURM job: start it with sbatch"
[[ -n "${MLFLOW_TRACKING_URI:-}" ]] || fail "MLFLOW_TRACKING_URI is not set: the address of the tracking server"
[[ -n "${NORMSTUDY_STATE:-}" ]] || fail "NORMSTUDY_STATE is not set: a folder that all nodes share, for checkpoints"

experiment="${1:-experiments/main.py}"
bin="${NORMSTUDY_BIN:-$PWD/.venv/bin}"
nodes="$SLURM_JOB_NUM_NODES"
cpus="${SLURM_CPUS_PER_TASK:-1}"
# Jobs that share a node take other ports and other folders.
address="${NORMSTUDY_HEAD:-$(hostname -I | awk '{print $1}')}:$((20000 + SLURM_JOB_ID % 10000))"
folder="/tmp/normstudy-ray-$SLURM_JOB_ID"

mkdir -p "$NORMSTUDY_STATE"
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$NORMSTUDY_STATE/ray-token-$SLURM_JOB_ID"
"$bin/python" -c 'import secrets; print(secrets.token_hex(32), end="")' >"$RAY_AUTH_TOKEN_PATH"
export RAY_USAGE_STATS_ENABLED=0

steps=()
driver=
stopping=no
requeue=no
stop_driver() {
    stopping=yes
    [[ -z "$driver" ]] || kill -TERM "$driver" 2>/dev/null || true
}
end_cluster() {
    trap - EXIT USR1 TERM INT
    stop_driver
    # By process id: `ray stop` would end the Ray of other jobs on these nodes too.
    [[ ${#steps[@]} -eq 0 ]] || kill -TERM "${steps[@]}" 2>/dev/null || true
    wait || true
    rm -rf "$RAY_AUTH_TOKEN_PATH" "$folder"
}
trap end_cluster EXIT
trap 'requeue=yes; stop_driver' USR1 # the time is nearly over
trap stop_driver TERM INT            # cancelled, or preempted: then SLURM itself puts the job back

srun --nodes=1 --ntasks=1 --nodelist="$SLURMD_NODENAME" \
    "$bin/ray" start --head --block --node-ip-address="${address%:*}" --port="${address#*:}" --num-cpus="$cpus" \
    --temp-dir="$folder" --include-dashboard=false &
steps+=($!)
if ((nodes > 1)); then
    srun --nodes=$((nodes - 1)) --ntasks=$((nodes - 1)) --exclude="$SLURMD_NODENAME" \
        "$bin/ray" start --block --address="$address" --num-cpus="$cpus" &
    steps+=($!)
fi

all_here='
import sys, ray
ray.init(sys.argv[1], logging_level="ERROR")
sys.exit(sum(node["Alive"] for node in ray.nodes()) < int(sys.argv[2]))'
for ((attempt = 1; ; attempt++)); do
    kill -0 "${steps[@]}" 2>/dev/null || fail "a node of the Ray cluster ended; its words are above"
    "$bin/python" -c "$all_here" "$address" "$nodes" >/dev/null 2>&1 && break
    [[ $stopping == no ]] || fail "stopped before the Ray cluster was there"
    ((attempt < 60)) || fail "not all of the $nodes nodes of the Ray cluster came"
    sleep "${NORMSTUDY_POLL_SECONDS:-3}"
done

"$bin/python" -m normstudy study "$experiment" --executor ray --address "$address" &
driver=$!
status=0
wait "$driver" || status=$?
while kill -0 "$driver" 2>/dev/null; do # a trap ends a `wait`; the driver then still ends its trials
    status=0
    wait "$driver" || status=$?
done
driver=

end_cluster
if [[ $requeue == yes && $status -ne 0 ]]; then
    scontrol requeue "$SLURM_JOB_ID" # the same command on another day: it resumes
fi
exit "$status"
