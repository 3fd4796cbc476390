#!/usr/bin/env bash
# Train a stage on several nodes by hand: sbatch --nodes=8 infra/slurm/train.sh instruct
# When requeued, it resumes from its last checkpoint, with the same loss and in the same MLflow run.
#SBATCH --job-name=sohes-train
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=64
#SBATCH --gpus-per-node=8
#SBATCH --mem=400G
#SBATCH --time=2-00:00:00
#SBATCH --requeue
#SBATCH --signal=TERM@120
set -euo pipefail
stage=${1:?name a training stage: backbone, instruct or correct}
cd "${SLURM_SUBMIT_DIR:?run me with sbatch}"
# shellcheck disable=SC1091
if [ -e .venv/bin/activate ]; then source .venv/bin/activate; fi   # else the environment that sbatch was called in
export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK   # Slurm 22.05 to 23.02 does not set it
exec srun python -m sohes.launch.together "$stage"
