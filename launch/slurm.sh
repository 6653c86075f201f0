#!/usr/bin/env bash
# Runs a study on a SLURM cluster. Each task of the array starts at a different cell, then takes the next cell that no other task
# works on:
#
#   sbatch launch/slurm.sh configs/paper_mnist.py
#   sbatch --array=1-8 --nodes=2 launch/slurm.sh configs/mine.py --config.train.batch=512
#
# Run it from the repository's root, on a file system that all nodes share. A task trains as many cells of a model at once as it has
# GPUs, or splits each batch over them, also over several nodes. A preempted task is queued again and resumes. The same command
# again computes what is missing. Arguments after the config are passed to experiments.sweep. tail -f jaxdiff-*.log shows the
# progress.
#
# Change these settings here, or on the command line of sbatch:
#SBATCH --job-name=jaxdiff
#SBATCH --array=1-4               # tasks that share the study's cells
#SBATCH --nodes=1                 # per task
#SBATCH --ntasks-per-node=1       # one process has all GPUs of its node
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@180         # before the time limit, training saves and the task ends
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=jaxdiff-%A_%a.log
set -euo pipefail

if [[ $# -eq 0 || ! -f ${1%%:*} ]]; then # FILE:VARIANT
  echo "error: there is no config ${1:-}; give one, as: sbatch launch/slurm.sh configs/paper_mnist.py" >&2
  exit 1
fi
config=$1
shift

# The environment is made by the first task that comes, on the shared file system. JAXDIFF_VENV is one that is there already;
# JAXDIFF_INSTALL says what pip installs where it is not CUDA's, PYTHON with which Python.
venv=${JAXDIFF_VENV:-$PWD/.venv-slurm}
python=${PYTHON:-python3}
(
  flock 9
  if [[ ! -x $venv/bin/python ]]; then
    if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
      echo "error: Python 3.11 or newer is needed, $python is not; name one, as: PYTHON=python3.12 sbatch launch/slurm.sh $config" >&2
      exit 1
    fi
    "$python" -m venv "$venv.new"
    "$venv.new/bin/pip" install --quiet --upgrade pip
    "$venv.new/bin/pip" install --quiet "${JAXDIFF_INSTALL:-jaxdiff[cuda] @ file://$PWD}"
    mv "$venv.new" "$venv"
  fi
) 9>"$venv.lock"

distributed=()
if ((SLURM_NNODES * ${SLURM_NTASKS_PER_NODE:-1} > 1)); then
  distributed=(--distributed) # the processes find each other by SLURM's own variables
fi
export JAXDIFF_TRACEBACK=1 # in the log
exec srun --kill-on-bad-exit=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" \
  "$venv/bin/python" -m experiments.sweep --config "$config" ${distributed[@]+"${distributed[@]}"} "$@"
