#!/usr/bin/env bash
# A study on a Cloud TPU VM: one host or a slice of several, also on spot machines:
#
#   ZONE=us-west4-a TYPE=v5litepod-16 launch/tpu_vm.sh depth configs/paper_mnist.py gs://my-bucket/runs/paper_mnist
#   SPOT=1 ZONE=... TYPE=... launch/tpu_vm.sh depth configs/paper_mnist.py gs://my-bucket/runs/paper_mnist --config.train.batch=512
#
# depth is a name of your choice for the queued resource and its node. Cells of one model train at once, a chip each, or each batch
# is split over the slice. The log is streamed until the study ends. If the slice is preempted, it is requested again, and the study
# resumes from its last checkpoint. If this command is interrupted, run it again: it resumes in the same way and creates nothing
# twice. Arguments after the bucket are passed to experiments.sweep. At the end the slice is deleted; KEEP=1 keeps it. EXTRAS are
# jaxdiff's extras on the hosts, tpu,cloud by default. DATA=gs://my-bucket/CelebA is copied to the hosts' disks, for
# --config.data.dir=data.
#
# Requirements: gcloud, logged in, with a project set; a bucket to which the TPU's service account can write.
set -euo pipefail

usage() {
  sed -n '2,/^set/{/^#/s/^# \{0,1\}//p;}' "$0" >&2
  exit 1
}
[[ $# -ge 3 && -f ${2%%:*} && -n ${ZONE:-} && -n ${TYPE:-} ]] || usage
name=$1 config=$2 workdir=$3
shift 3
# CHANGE with the type: v4 tpu-ubuntu2204-base, v5e v2-alpha-tpuv5-lite, v5p v2-alpha-tpuv5, v6e v2-alpha-tpuv6e.
runtime=${RUNTIME:-v2-alpha-tpuv5-lite}
spot=()
[[ -z ${SPOT:-} ]] || spot=(--spot)

queue() { gcloud compute tpus queued-resources "$1" "$name" --zone="$ZONE" "${@:2}"; }
errors=$(mktemp)
trap 'rm -f "$errors"' EXIT
# ABSENT where gcloud says so, UNKNOWN where it says nothing of the slice, as without a network.
state() {
  queue describe --format='value(state.state)' 2> "$errors" ||
    if grep -q NOT_FOUND "$errors"; then echo ABSENT; else echo UNKNOWN; fi
}
on_every_host() { gcloud compute tpus tpu-vm ssh "$name" --zone="$ZONE" --worker="${worker:-all}" --command="$1"; }

# Until the slice is there: ask for it once, and again where it was taken away or the request failed.
obtain() {
  local now before=""
  while now=$(state) && [[ $now != ACTIVE ]]; do
    if [[ $now != "$before" ]]; then
      echo "$(date +%T) $name is $now" >&2
      [[ $now != UNKNOWN ]] || cat "$errors" >&2
    fi
    before=$now
    case $now in
      ABSENT) queue create --node-id="$name" --accelerator-type="$TYPE" --runtime-version="$runtime" ${spot[@]+"${spot[@]}"} ;;
      FAILED | SUSPENDED) queue delete --force --quiet ;;
      *) sleep "${EVERY:-30}" ;;
    esac
  done
}

# The code as committed, the command, and the environment; a study that runs is left as it is. The hosts' own Python is too old.
# shellcheck disable=SC2016  # it is the hosts' shells that expand it
prepare() {
  local here
  here=$(mktemp -d) &&
    git archive --format=tar.gz --output="$here/new.tar.gz" HEAD &&
    {
      echo "cd ~/jaxdiff"
      echo "export JAXDIFF_COMMIT=$(git rev-parse HEAD) JAXDIFF_TRACEBACK=1"
      printf '%q ' .venv/bin/python -m experiments.sweep --distributed --config "$config" --workdir "$workdir" "$@"
      printf '\necho $? > status\n'
    } > "$here/new.sh" &&
    gcloud compute tpus tpu-vm scp "$here/new.tar.gz" "$here/new.sh" "$name:" --zone="$ZONE" --worker=all &&
    rm -r "$here" &&
    on_every_host 'mkdir -p jaxdiff && cd jaxdiff &&
      if flock -n lock true; then
        mv ~/new.sh ~/jaxdiff.sh && tar -xzf ~/new.tar.gz &&
          if ! test -x .venv/bin/pip; then
            python3 -m pip install --quiet --user uv && python3 -m uv venv --quiet --seed --python 3.12 .venv
          fi &&
          .venv/bin/pip install --quiet -e ".['"${EXTRAS:-tpu,cloud}"']" &&
          if test -n "'"${DATA:-}"'"; then mkdir -p data && gcloud storage rsync --recursive --quiet "'"${DATA:-}"'" data; fi
      elif ! cmp -s ~/new.sh ~/jaxdiff.sh; then
        echo "error: a study of another commit or with other arguments is running here: $(grep sweep ~/jaxdiff.sh)" >&2
        exit 1
      fi'
}

# One process a host, which goes on without this connection. The lock is a running one's, which is left to run.
begin() {
  on_every_host 'cd jaxdiff && { flock -n lock rm -f status; setsid nohup flock -n lock bash ~/jaxdiff.sh >> log 2>&1 < /dev/null & }'
}

# The first host's log, until its status is there.
follow() {
  # shellcheck disable=SC2016  # it is that host's shell that reads the status
  worker=0 on_every_host 'cd jaxdiff && { tail -n 20 -F log & tail=$!; } &&
    until test -e status; do sleep 2; done; sleep 1; kill $tail; exit "$(cat status)"'
}

[[ -z $(git status --porcelain) ]] || echo "warning: what is not committed stays here; the hosts get the last commit" >&2
while true; do
  obtain
  status=0
  what="the installation"
  { prepare "$@" && begin && what="the study" && follow; } || status=$?
  now=$(state)
  if ((status == 0 || status == 3)); then # 3: all is done, with a cell whose loss was not finite
    break
  elif [[ $now == UNKNOWN || ($now == ACTIVE && $status == 255) ]]; then # 255: ssh's own
    echo "$(date +%T) the connection to $name broke; it is taken up again" >&2
    sleep "${EVERY:-30}"
  elif [[ $now != ACTIVE ]]; then
    echo "$(date +%T) $name was taken away; it is asked for again" >&2
  else
    echo "error: $what ended with status $status; the log above says why. $name is kept: run this again, or" \
      "gcloud compute tpus queued-resources delete $name --force --zone=$ZONE" >&2
    exit 1
  fi
done
if ((status == 3)); then
  echo "the study has ended, and the loss of a cell was not finite; the log above says which" >&2
else
  echo "the report is in $workdir"
fi
[[ -n ${KEEP:-} ]] || queue delete --force --quiet
exit "$status"
