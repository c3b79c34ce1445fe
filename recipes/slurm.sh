#!/usr/bin/env bash
#SBATCH --job-name=formless
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --requeue
#
# A Ray cluster on the job's nodes, and `formless run` on it:
#
#     sbatch recipes/slurm.sh experiment.yaml --out /shared/runs/first
#
# Submit the job again, or requeue it, to resume the sweep.
set -euo pipefail
export RAY_USAGE_STATS_ENABLED=0 RAY_AUTH_MODE=token RAY_AUTH_TOKEN
RAY_AUTH_TOKEN=$(head -c 32 /dev/urandom | od -An -vtx1 | tr -d ' \n') # only this job may use its cluster

gpus=${SLURM_GPUS_ON_NODE:-0}
read -r head < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
host=$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname -I | cut -d ' ' -f 1)
port=$((20000 + SLURM_JOB_ID % 10000))
node=(--num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="$gpus" --block)

trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
srun --overlap --nodes=1 --ntasks=1 --nodelist="$head" \
    ray start --head --node-ip-address="$host" --port="$port" --temp-dir="/tmp/ray-$SLURM_JOB_ID" \
    --include-dashboard=false "${node[@]}" &
until (: >"/dev/tcp/$host/$port") 2>/dev/null; do
    kill -0 $! # the head is still starting
    sleep 1
done
if ((SLURM_NNODES > 1)); then
    others=$((SLURM_NNODES - 1))
    srun --overlap --nodes="$others" --ntasks="$others" --exclude="$head" ray start --address="$host:$port" "${node[@]}" &
fi

# One worker for each GPU, or for each node without GPUs; Ray waits for nodes that are still starting.
workers=$((SLURM_NNODES * (gpus > 0 ? gpus : 1)))
formless run "$@" --executor ray --ray-address "$host:$port" --workers "$workers"
