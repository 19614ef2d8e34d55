#!/bin/bash
# Runs the tests of placement at full size, one after the other, and prints what they measured.
#
# With RESULTS=1 the counts are kept in docs/results/, with the commit and the command. FILTER names the tests to run.
# A run that fails keeps nothing and shows why.
set -euo pipefail
cd "$(dirname "$0")/.."

output=$(mktemp)
trap 'rm -f "$output"' EXIT

if ! PLACEMENT=full cargo test --locked --workspace --test placement -- --nocapture --test-threads=1 ${FILTER:-} \
    >"$output" 2>&1; then
    cat "$output"
    exit 1
fi
counts() {
    # The runner prints the name of a test in front of its first line.
    sed -n 's/^.*\(placement: \)/* /p' "$output"
}
if [ -z "${RESULTS:-}" ]; then
    counts
    exit 0
fi
mkdir -p docs/results
result=docs/results/placement-$(date -u +%Y-%m-%d).md
{
    echo "# Placement of replicas, $(date -u +%Y-%m-%d)"
    echo
    echo "    make placement RESULTS=1"
    echo
    echo "Commit $(git rev-parse --short HEAD), $(nproc) cores; four stores and a scheduler, each a process."
    echo
    counts
} >"$result"
cat "$result"
