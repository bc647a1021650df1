#!/usr/bin/env bash
# Offers a three-node cluster on this machine three times what it can take, and shows what comes of it:
# puts that succeed within a second, what the nodes refused, their memory, and whether a row that was
# acknowledged meanwhile is lost. Each round has new clusters: two find the best rate, with 64 and with
# 256 puts in flight; the third is offered three times that by four clients, whatever it does.
# Usage: tests/scripts/overload.sh [ROUNDS] [DURATION] [VALUE_BYTES]
# The nodes share one core and the clients have the others: else a client that offers more takes from the
# nodes what they had. Values of 8 KiB, so that one core of clients can offer so much.
set -euo pipefail
cd "$(dirname "$0")/../.."
source tests/scripts/cluster.sh
rounds=${1:-3} duration=${2:-12s} bytes=${3:-8192} clients=4
others=$((1 < $(nproc) ? 1 : 0))-$(($(nproc) - 1))
cli="taskset -c $others target/release/kv-cli --endpoints $endpoint --output json"
work=$(mktemp -d)
trap 'stop_cluster; rm -rf "$out" "$work"' EXIT

bench() { # bench NAMESPACE ARGUMENTS..
  $cli --timeout 1s bench "$1" --workload write --keys 1000000 --value-size "$bytes" \
    --duration "$duration" "${@:2}"
}

refused() { # what the nodes refused so far
  local node
  for node in 1 2 3; do curl -fs "127.0.0.1:$((base + 200 + node))/metrics"; done |
    awk '/^quorate_requests_total.*outcome="overloaded"/ { n += $2 } END { print n + 0 }'
}

peak() { # peak IN_FLIGHT
  start_cluster taskset -c 0
  $cli namespace create peak >/dev/null
  local json
  json=$(bench peak --concurrency "$1")
  row "$1 in flight" "$json"
  stop_cluster
  best=$(compute "$(number ops_per_s "$json") > $best ? $(number ops_per_s "$json") : $best")
}

row() { # row LOAD JSON..: what all of the clients together did
  local json ok=0 offered=0 missed=0 p50=0 p99=0 failed=
  for json in "${@:2}"; do
    ok=$(compute "$ok + $(number ops_per_s "$json")")
    offered=$(compute "$offered + $(number operations "$json") / $(number seconds "$json")")
    missed=$((missed + $(number missed "$json")))
    p50=$(compute "$(number p50 "$json") > $p50 ? $(number p50 "$json") : $p50")
    p99=$(compute "$(number p99 "$json") > $p99 ? $(number p99 "$json") : $p99")
    failed="$failed $(errors "$json")"
  done
  goodput=$ok
  printf '%-14s %8.0f %10.0f %8s %8s %9s %8s %8s %s\n' "$1" "$ok" "$offered" "$missed" "$p50" "$p99" \
    "$(refused)" "$(rss_mib VmHWM)" "$failed"
}

over() { # three times the best rate, and rows whose acknowledgements are counted
  local client pids=() status=0 rate=$((${best%.*} * 3 / clients)) json=()
  start_cluster taskset -c 0
  $cli namespace create rows >/dev/null
  seq -f 'row-%07.0f	value' 1 20000 >"$work/rows"
  taskset -c "$others" target/release/kv-cli --endpoints "$endpoint" --timeout 30s \
    import rows "$work/rows" --format lines >"$work/import" 2>&1 &
  local import=$!
  for client in $(seq $clients); do
    $cli namespace create "over-$client" >/dev/null
  done
  for client in $(seq $clients); do
    bench "over-$client" --concurrency 5000 --rate $rate >"$work/over-$client" &
    pids+=($!)
  done
  wait "${pids[@]}"
  for client in $(seq $clients); do json+=("$(cat "$work/over-$client")"); done
  row "3 x ${best%.*}" "${json[@]}"
  wait $import || status=$?
  sleep 2
  local found
  found=$(target/release/kv-cli --endpoints "$endpoint" export rows --format lines 2>/dev/null | sort -u | wc -l)
  echo "  import: $(tail -1 "$work/import") (exit code $status); found afterwards: $found of 20000"
  echo "  in time: $(compute "int(100 * $goodput / $best)") % of the best rate"
  stop_cluster
}

printf '%-14s %8s %10s %8s %8s %9s %8s %8s %s\n' load ok/s offered/s missed p50_us p99_us refused rss_MiB errors
for round in $(seq "$rounds"); do
  best=0
  peak 64
  peak 256
  over
done
