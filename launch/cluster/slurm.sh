#!/usr/bin/env bash
# Head and workers of a Ray cluster in one allocation, and one job on it: from the root of the project,
#   SHARED=/mnt/wam sbatch --nodes=4 --gpus-per-node=4 launch/cluster/slurm.sh train configs/sants.yaml rollout.runners=16
# The environment of `make setup` is on every node at the same path. Ten minutes before its time limit, and when it is
# preempted, the job gets SIGTERM: it saves, ends with code 130 and is queued again, and goes on from there.
#SBATCH --job-name=wam
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --requeue
#SBATCH --signal=B:TERM@600
#SBATCH --open-mode=append
set -euo pipefail

: "${SHARED:?Set SHARED to a folder that every node sees}"
: "${SLURM_JOB_ID:?Start this script by sbatch}"
resume_me=130
start_s=120
project=${SLURM_SUBMIT_DIR:-$PWD}
export PATH="$project/.venv/bin:$PATH" OMP_NUM_THREADS=1 RAY_USAGE_STATS_ENABLED=0

# Every allocation has a token of its own, in a file that its owner alone can read.
export RAY_AUTH_MODE=token
export RAY_AUTH_TOKEN_PATH="$SHARED/.ray/token-$SLURM_JOB_ID"
python -m launch.job token "$RAY_AUTH_TOKEN_PATH"

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head --lines=1)
address=$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname --ip-address | awk '{print $1}')
port=$((20000 + SLURM_JOB_ID % 10000)) # jobs on one node do not meet
dashboard=$((30000 + SLURM_JOB_ID % 10000))
temporary=/tmp/ray-$SLURM_JOB_ID # short, since the names of sockets are

steps=()
# shellcheck disable=SC2329  # it is called by the trap
finish() {
  for step in "${steps[@]}"; do kill "$step" 2>/dev/null || true; done
  wait 2>/dev/null || true
  rm -f "$RAY_AUTH_TOKEN_PATH"
}
trap finish EXIT

srun --nodes=1 --ntasks=1 --nodelist="$head" --overlap \
  ray start --head --block --node-ip-address="$address" --port="$port" --temp-dir="$temporary" \
  --dashboard-host=127.0.0.1 --dashboard-port="$dashboard" \
  --num-cpus="${SLURM_CPUS_ON_NODE:-1}" &
steps+=($!)

export RAY_ADDRESS="$address:$port"
for ((waited = 0; ; waited++)); do
  if ray health-check >/dev/null 2>&1; then break; fi
  if ((waited > start_s)); then echo "The head did not answer within $start_s s." >&2 && exit 1; fi
  sleep 1
done

if ((SLURM_JOB_NUM_NODES > 1)); then
  srun --nodes=$((SLURM_JOB_NUM_NODES - 1)) --ntasks=$((SLURM_JOB_NUM_NODES - 1)) --exclude="$head" --overlap \
    ray start --block --address="$RAY_ADDRESS" --num-cpus="${SLURM_CPUS_ON_NODE:-1}" &
  steps+=($!)
fi

verb=${1:?Name a verb, such as train}
shift
cd "$project"
# The batch script runs on the first node, which is the head: the driver needs no step of its own.
python -m "launch.$verb" "run.root=$SHARED/runs" "demonstrations.root=$SHARED/data/demonstrations" "$@" &
driver=$!
trap 'kill -TERM "$driver" 2>/dev/null || true' TERM
code=0
wait "$driver" || code=$?
if ((code > 128)) && kill -0 "$driver" 2>/dev/null; then # the signal ended the waiting, not the driver
  code=0
  wait "$driver" || code=$?
fi
if ((code == resume_me)); then scontrol requeue "$SLURM_JOB_ID" || true; fi
exit "$code"
