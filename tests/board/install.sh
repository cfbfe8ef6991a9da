#!/bin/sh
# Install the headless Chromium that tests/board drives, from Debian's packages (20 s). Without root or apt: nothing.
set -eu
for name in chromium-headless-shell chromium chromium-browser google-chrome; do
  command -v "$name" >/dev/null && exit 0
done
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
  echo "no Chromium is installed: it needs root and apt-get; tests/board/test_browser.py is skipped" >&2
  exit 0
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq || true
apt-get install -y -qq --no-install-recommends chromium-headless-shell >/dev/null ||
  echo "Chromium could not be installed; tests/board/test_browser.py is skipped" >&2
