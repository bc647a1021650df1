#!/usr/bin/env bash
# Measures a three-node cluster on this machine: operations a second, latency, and what an operation
# costs all nodes together in processor time. `alone` is one write after the other, `write` 64 of them in
# flight; `batch` writes 64 keys a call, counted by key, one call after the other, `batches` four of them
# in flight; `read` is 64 reads in flight.
# Usage: tests/scripts/measure.sh [ROUNDS] [DURATION]
# It builds the release binaries, starts its own cluster on ports 18400 and up, and ends it.
set -euo pipefail
cd "$(dirname "$0")/../.."
source tests/scripts/cluster.sh
rounds=${1:-3} duration=${2:-12s}
start_cluster
cli="target/release/kv-cli --endpoints $endpoint --output json"

# The nodes' processor time so far, in microseconds.
cpu_us() {
  local ticks=0 pid
  for pid in $nodes; do
    ticks=$((ticks + $(awk '{ sub(/^.*\) /, ""); print $12 + $13 }' "/proc/$pid/stat")))
  done
  echo $((ticks * 1000000 / $(getconf CLK_TCK)))
}

bench() { # bench NAMESPACE ARGUMENTS..
  $cli bench "$1" --keys 100000 --value-size 1024 "${@:2}"
}

# Writes go to a namespace of their own in each round: a writer that does not know a key's context
# would leave siblings, and measure those.
$cli namespace create read --n 3 --r 2 --w 2 --durability buffered >/dev/null
bench read --workload read --concurrency 64 --duration 1s --prepare >/dev/null
printf '%-8s %12s %10s %10s %16s %8s\n' workload ops/s p50_us p99_us server_us/op errors
for workload in alone write batch batches read; do
  for round in $(seq "$rounds"); do
    namespace=read
    case $workload in
    alone) arguments=(--workload write --concurrency 1) ;;
    batch) arguments=(--workload write --batch 64 --concurrency 1) ;;
    batches) arguments=(--workload write --batch 64 --concurrency 4) ;;
    *) arguments=(--workload "$workload" --concurrency 64) ;;
    esac
    if [ "$workload" != read ]; then
      namespace=$workload-$round
      $cli namespace create "$namespace" --n 3 --r 2 --w 2 --durability buffered >/dev/null
    fi
    before=$(cpu_us)
    json=$(bench "$namespace" "${arguments[@]}" --duration "$duration")
    spent=$(($(cpu_us) - before))
    operations=$(number operations "$json")
    printf '%-8s %12.0f %10s %10s %16.1f %8s\n' "$workload" "$(number ops_per_s "$json")" \
      "$(number p50 "$json")" "$(number p99 "$json")" \
      "$(compute "$spent / $operations")" "$(errors "$json")"
  done
done
