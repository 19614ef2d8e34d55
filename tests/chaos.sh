#!/bin/bash
# Runs the test of killed stores for a long time and keeps what it counted in docs/results/.
#
# CHAOS_SECONDS says for how long, CHAOS_SEED which mishaps come; with CHAOS_NETWORK=1 every store has a network namespace
# and partitions lose packets, otherwise proxies between the stores hold bytes back. The result names the commit, the command
# and the counts; a run that fails keeps nothing and shows why.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${CHAOS_SECONDS:-600}
seed=${CHAOS_SEED:-2026}
output=$(mktemp)
trap 'rm -f "$output"' EXIT

if ! CHAOS_SECONDS=$seconds CHAOS_SEED=$seed cargo test --locked --workspace --test chaos -- --nocapture >"$output" 2>&1; then
    cat "$output"
    exit 1
fi
mkdir -p docs/results
result=docs/results/chaos${CHAOS_NETWORK:+-network}-$(date -u +%Y-%m-%d).md
{
    echo "# Killed stores, $(date -u +%Y-%m-%d)"
    echo
    echo "    ${CHAOS_NETWORK:+CHAOS_NETWORK=1 }CHAOS_SECONDS=$seconds CHAOS_SEED=$seed make chaos"
    echo
    echo "Commit $(git rev-parse --short HEAD), $(nproc) cores."
    echo
    grep -E '^(chaos: )' "$output" | sed 's/^chaos: /* /'
} >"$result"
cat "$result"
