#!/usr/bin/env bash
# Asks a client for three times what a three-node cluster on this machine can take, and shows what comes
# of it: writes that succeed, the nodes' memory, and whether an acknowledged row is lost. One client does
# not get so much onto the wire: `tried/s` is what the nodes met.
# Usage: tests/scripts/overload.sh [DURATION]
# It builds the release binaries, starts its own cluster on ports 18400 and up, and ends it. The nodes
# share one core and the clients have the others: else a client that offers more takes from the nodes
# what they had. Its limit of requests under way is what HTTP/2 lets through to three nodes.
set -euo pipefail
cd "$(dirname "$0")/../.."
duration=${1:-12s} base=${BASE_PORT:-18400}
cargo build --quiet --release --bin quorate --bin kv-cli
work=$(mktemp -d)
others=$((1 < $(nproc) ? 1 : 0))-$(($(nproc) - 1))
: >"$work/dev"
taskset -c 0 target/release/quorate dev --nodes 3 --base-port "$base" >"$work/dev" 2>&1 &
supervisor=$!
trap 'kill -INT $supervisor 2>/dev/null; wait $supervisor 2>/dev/null; rm -rf "$work"' EXIT
until grep -qx ready "$work/dev"; do
  kill -0 $supervisor || { cat "$work/dev"; exit 1; }
  sleep 0.2
done
nodes=$(sed -n 's/^node-.* pid \([0-9]*\) .*/\1/p' "$work/dev")
cli="taskset -c $others target/release/kv-cli --endpoints 127.0.0.1:$((base + 1)) --output json"

number() { sed -n "s/.*\"$1\":\([0-9.]*\).*/\1/p" <<<"$2"; }

rss_mib() { # the largest resident memory of a node so far, in MiB
  local pid
  for pid in $nodes; do awk '/^VmHWM/ { print int($2 / 1024) }' "/proc/$pid/status"; done | sort -n | tail -1
}

show() { # show WHAT JSON
  printf '%-10s %10.0f %10.0f %8s %10s %10s %8s  %s\n' "$1" "$(number ops_per_s "$2")" \
    "$(awk "BEGIN { print $(number operations "$2") / $(number seconds "$2") }")" \
    "$(number missed "$2")" "$(number p50 "$2")" "$(number p99 "$2")" "$(rss_mib)" \
    "$(sed -n 's/.*"errors":\({[^}]*}\).*/\1/p' <<<"$2")"
}

bench() { # bench NAMESPACE ARGUMENTS..
  $cli namespace create "$1" >/dev/null
  $cli bench "$1" --workload write --keys 1000000 --value-size 1024 --duration "$duration" "${@:2}"
}

printf '%-10s %10s %10s %8s %10s %10s %8s  %s\n' load ok/s tried/s missed p50_us p99_us rss_MiB errors
peak=0
for clients in 64 256 1024; do
  steady=$(bench "peak-$clients" --concurrency "$clients")
  show "$clients" "$steady"
  peak=$(awk "BEGIN { p = $(number ops_per_s "$steady"); print (p > $peak) ? p : $peak }")
done
rate=$(awk "BEGIN { print int(3 * $peak) }")

# Rows whose acknowledgements are counted, while the load is on.
$cli namespace create rows >/dev/null
seq -f 'row-%07.0f	value' 1 20000 >"$work/rows"
target/release/kv-cli --endpoints "127.0.0.1:$((base + 1))" --timeout 30s \
  import rows "$work/rows" --format lines >"$work/import" 2>&1 &
import=$!
over=$(bench over --concurrency 3000 --rate "$rate")
show "3x $rate" "$over"
status=0
wait $import || status=$?
echo "rows: $(tail -1 "$work/import") (exit code $status)"
sleep 2
found=$(target/release/kv-cli --endpoints "127.0.0.1:$((base + 1))" export rows --format lines | sort -u | wc -l)
echo "rows found afterwards: $found of 20000"
awk "BEGIN { printf \"goodput with three times the load wanted: %.0f %% of the peak\n\", 100 * $(number ops_per_s "$over") / $peak }"
