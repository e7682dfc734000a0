#!/bin/sh
# Finds a Chromium for the browser tests, or gets one: the system's, else Debian's package, else playwright's own.
set -eu
python=${1:-python3}

for name in "${CHROMIUM:-}" chromium chromium-browser google-chrome; do
  if [ -n "$name" ] && command -v "$name" >/dev/null 2>&1; then
    echo "browser tests use $(command -v "$name")"
    exit 0
  fi
done
if command -v apt-get >/dev/null 2>&1 && [ "$(id -u)" = 0 ]; then
  if apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium >/dev/null; then
    echo "browser tests use $(command -v chromium)"
    exit 0
  fi
fi
exec "$python" -m playwright install chromium
