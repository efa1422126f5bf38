#!/usr/bin/env bash
# Start-up side by side with peers, in one session: writes a Markdown table to standard output.
# Needs hyperfine and bubblewrap (Debian packages) and a release build: cargo build --release -p fvm-cli
# Usage: benches/start.sh [RUNS]      as root it measures root mode, as a user rootless mode
set -euo pipefail
runs=${1:-200}
here=$(cd "$(dirname "$0")/.." && pwd)
fvm=${FVM:-$(find "$here/target" -path '*release/fvm' -type f -perm -u+x | head -n 1)}
[ -x "$fvm" ] || { echo "no release build: cargo build --release -p fvm-cli" >&2; exit 1; }
home=$(mktemp -d "${TMPDIR:-/var/tmp}/fvm-bench.XXXXXX")
trap 'rm -rf "$home"' EXIT
export FVM_HOME=$home/state
view="--ro-bind / / --dev /dev --proc /proc --unshare-user --unshare-pid --unshare-ipc --unshare-uts --unshare-cgroup"
cd /
hyperfine --shell=none --warmup 20 --runs "$runs" --export-json "$home/result.json" \
  -n 'bwrap, read-only /, same namespaces' "bwrap $view /bin/true" \
  -n 'fvm run --rm' "$fvm run --rm -- /bin/true" \
  -n 'bwrap, and --unshare-net' "bwrap $view --unshare-net /bin/true" \
  -n 'fvm run --rm --net none' "$fvm run --rm --net none -- /bin/true" \
  -n 'plain /bin/true' /bin/true >&2
python3 - "$home/result.json" <<'PY'
import json, sys
rows = json.load(open(sys.argv[1]))["results"]
reference = rows[0]["median"]
print("| what runs `/bin/true` | median ms | p95 ms | standard deviation ms | ratio to bwrap |")
print("|---|---|---|---|---|")
for row in rows:
    times = sorted(row["times"])
    p95 = times[int(len(times) * 0.95)]
    print(f'| {row["command"]} | {row["median"]*1e3:.2f} | {p95*1e3:.2f} | {row["stddev"]*1e3:.2f} | {row["median"]/reference:.2f} |')
PY
