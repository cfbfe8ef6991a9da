#!/bin/sh
# Install the Slurm that tests/cluster starts, from Debian's or Ubuntu's packages (13 MB). Without root or apt: nothing.
set -eu
command -v slurmctld >/dev/null && exit 0
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
  echo "no Slurm is installed: it needs root and apt-get; tests/cluster is skipped" >&2
  exit 0
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq || true
apt-get install -y -qq --no-install-recommends \
  slurmctld slurmd slurm-client slurm-wlm-basic-plugins munge >/dev/null ||
  echo "Slurm could not be installed; tests/cluster is skipped" >&2
