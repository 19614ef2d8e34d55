#!/bin/bash
# Runs the clients in a storm for many rounds and keeps what they counted in docs/results/.
#
# SOAK_ROUNDS says how often, SOAK_SECONDS for how long each, SOAK_SEED which mishaps come. The result names the commit, the
# command and the counts; a run that fails keeps nothing and shows why.
set -euo pipefail
cd "$(dirname "$0")/.."

rounds=${SOAK_ROUNDS:-10}
seconds=${SOAK_SECONDS:-60}
seed=${SOAK_SEED:-2026}
output=$(mktemp)
trap 'rm -f "$output"' EXIT

if ! SOAK_ROUNDS=$rounds SOAK_SECONDS=$seconds SOAK_SEED=$seed \
    cargo test --locked --workspace --test soak -- --nocapture --ignored >"$output" 2>&1; then
    cat "$output"
    exit 1
fi
mkdir -p docs/results
result=docs/results/soak-$(date -u +%Y-%m-%d).md
{
    echo "# Clients in a storm, $(date -u +%Y-%m-%d)"
    echo
    echo "    SOAK_ROUNDS=$rounds SOAK_SECONDS=$seconds SOAK_SEED=$seed make soak"
    echo
    echo "Commit $(git rev-parse --short HEAD), $(nproc) cores. Every second a leader was moved, every ten seconds a store killed;"
    echo "the clients are the crate \`tikv-client\`, unmodified."
    echo
    grep -E '^soak: ' "$output" | sed 's/^soak: /* /'
} >"$result"
cat "$result"
