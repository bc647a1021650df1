# What the scripts beside it share: a cluster of three nodes of this repository's release binaries on this
# machine, on the ports from BASE_PORT (18400) up. Sourced, from the repository's root.
base=${BASE_PORT:-18400} supervisor=
dev=(--nodes 3) # what else `quorate dev` is told
endpoint=127.0.0.1:$((base + 1))
out=$(mktemp)
trap 'stop_cluster; rm -f "$out"' EXIT
cargo build --quiet --release --bin quorate --bin kv-cli

start_cluster() { # start_cluster COMMAND..: run by that command, such as taskset
  : >"$out"
  "$@" target/release/quorate dev "${dev[@]}" --base-port "$base" >"$out" 2>&1 &
  supervisor=$!
  until grep -qx ready "$out"; do
    kill -0 $supervisor || { cat "$out"; exit 1; }
    sleep 0.2
  done
  nodes=$(sed -n 's/^node-.* pid \([0-9]*\) .*/\1/p' "$out")
}

stop_cluster() {
  [ -z "$supervisor" ] && return
  kill -INT "$supervisor" 2>/dev/null || true
  wait "$supervisor" 2>/dev/null || true
  supervisor=
}

rss_mib() { # the largest resident memory of a node: rss_mib VmRSS now, rss_mib VmHWM so far; in MiB
  local pid
  for pid in $nodes; do awk "/^$1/ { print int(\$2 / 1024) }" "/proc/$pid/status"; done | sort -n | tail -1
}

number() { sed -n "s/.*\"$1\":\([0-9.]*\).*/\1/p" <<<"$2"; } # number NAME JSON

errors() { sed -n 's/.*"errors":\({[^}]*}\).*/\1/p' <<<"$1"; } # errors JSON

compute() { awk "BEGIN { print ($1) }"; }
