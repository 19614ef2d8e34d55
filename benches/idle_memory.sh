#!/usr/bin/env bash
# Prints the resident memory of an idle `skerry playground`, after start and after a minute of idling.
# Run through `make memory`, which builds the binary first.
set -euo pipefail
skerry=${SKERRY:-target/debug/skerry}
seconds=${SECONDS_IDLE:-60}
output=$(mktemp)
trap 'kill "$pid" 2>/dev/null || true; rm -f "$output"' EXIT
"$skerry" playground --ephemeral --port-offset "${PORT_OFFSET:-27000}" >"$output" &
pid=$!
until grep -q '^Ready:' "$output"; do
  kill -0 "$pid" 2>/dev/null || { echo "skerry ended before it was ready" >&2; exit 1; }
  sleep 0.1
done
resident() { awk -v when="$1" '/^VmRSS/ {printf "%-22s %6.1f MB resident\n", when, $2 / 1024}' "/proc/$pid/status"; }
resident "when ready"
sleep "$seconds"
resident "after ${seconds} s idle"
