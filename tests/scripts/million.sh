#!/usr/bin/env bash
# Fills one node with keys of 12 bytes and values of 100, stops it, starts it again and counts them
# (`kv-cli count` reads every record): what that takes in time, memory and disk, with both engines.
# Usage: tests/scripts/million.sh [KEYS]
set -euo pipefail
cd "$(dirname "$0")/../.."
source tests/scripts/cluster.sh
keys=${1:-1000000}
work=$(mktemp -d)
trap 'stop_cluster; rm -rf "$out" "$work"' EXIT
cli="target/release/kv-cli --endpoints $endpoint"

seconds_since() { compute "$(date +%s.%N) - $1"; } # seconds_since BEGUN

awk -v keys="$keys" 'BEGIN { for (n = 0; n < keys; n++) printf "key-%08d\t%0100d\n", n, n }' >"$work/rows"
printf '%-8s %10s %10s %10s %10s %10s %10s %10s\n' \
  engine import_s rss_MiB start_s answer_s count_s rss_MiB disk_MiB
for engine in fjall sled; do
  dev=(--nodes 1 --engine "$engine" --data "$work/$engine")
  start_cluster
  $cli namespace create keys --n 1 --r 1 --w 1 >/dev/null
  begun=$(date +%s.%N)
  $cli --timeout 30s import keys "$work/rows" --format lines >/dev/null 2>&1
  imported=$(seconds_since "$begun") filled=$(rss_mib VmRSS)
  stop_cluster
  begun=$(date +%s.%N)
  start_cluster
  started=$(seconds_since "$begun")
  $cli get keys key-00000001 >/dev/null
  answered=$(seconds_since "$begun") begun=$(date +%s.%N)
  found=$($cli --output json count keys)
  [ "$(number count "$found")" = "$keys" ] || { echo "of $keys keys there are: $found"; exit 1; }
  printf '%-8s %10.1f %10s %10.1f %10.1f %10.1f %10s %10s\n' "$engine" "$imported" "$filled" "$started" \
    "$answered" "$(seconds_since "$begun")" "$(rss_mib VmHWM)" "$(du -sm "$work/$engine" | cut -f1)"
  stop_cluster
done
