#!/usr/bin/env bash
# Run the shards of one stage by hand, without Prefect, 12 to a job, 32 jobs at a time:
#   sbatch --array="$(sohes shards explore --per-job 12)%32" infra/slurm/shards.sh explore 12
# When the array is done: sohes explore && dvc commit --force explore
#SBATCH --job-name=sohes-shards
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-node=1
#SBATCH --mem=48G
#SBATCH --time=08:00:00
#SBATCH --requeue
set -euo pipefail
stage=${1:?name a stage with shards: pull, explore or evaluate}
cd "${SLURM_SUBMIT_DIR:?run me with sbatch}"
# shellcheck disable=SC1091
if [ -e .venv/bin/activate ]; then source .venv/bin/activate; fi   # else the environment that sbatch was called in
per_job=${2:-1}
first=$((${SLURM_ARRAY_TASK_ID:?run me with sbatch --array} * per_job))
exec sohes "$stage" --shard "$first-$((first + per_job - 1))"
