#!/usr/bin/env bash
# Starts Ray on a node, with what its jobs and workers are to inherit: `start.sh FOLDER` and the arguments of `ray start`.
# FOLDER holds the environment of install.sh as `venv`, and job.env.
set -euo pipefail

folder=$1
shift
ulimit -n 65536 || true  # or as many files as the node allows
# `ray up` sets both for the commands that it runs; with the first every worker would compute on one thread.
unset OMP_NUM_THREADS PYTHONWARNINGS
set -a
. "$folder/job.env"
set +a
export PATH=$folder/venv/bin:$PATH  # a job's `python` is this one
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0 RAY_JOB_STOP_WAIT_TIME_S=30  # time for a last checkpoint
ray stop
ray start "$@"
