#!/usr/bin/env bash
# Diff and commit side by side with cp, in one session: writes a Markdown table to standard output.
# Needs python3 and a release build: cargo build --release -p fvm-cli
# Usage: benches/commit.sh [RUNS]     20,000 small files, 100,000 created files, one file of 4 GiB (FVM_BENCH_GIB)
set -euo pipefail
runs=${1:-5}
gib=${FVM_BENCH_GIB:-4}
here=$(cd "$(dirname "$0")/.." && pwd)
fvm=${FVM:-$(find "$here/target" -path '*release/fvm' -type f -perm -u+x | head -n 1)}
[ -x "$fvm" ] || { echo "no release build: cargo build --release -p fvm-cli" >&2; exit 1; }
home=$(mktemp -d "${TMPDIR:-/var/tmp}/fvm-bench.XXXXXX")
trap '"$fvm" --home "$home/state" delete --force $("$fvm" --home "$home/state" list | awk "NR>1{print \$1}") 2>/dev/null; rm -rf "$home"' EXIT
exec python3 - "$fvm" "$home" "$runs" "$gib" <<'PY'
import os, statistics, subprocess, sys, time
fvm, home, runs, gib = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
work = home + "/work"
os.mkdir(work)

def call(*words):
    ran = subprocess.run(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if ran.returncode:
        sys.exit(f"{words[:6]}: {ran.stderr}")

def fv(*words):
    call(fvm, "--home", home + "/state", *words)

def timed(*words, sync=True):
    # What the preparation wrote is not this command's to write.
    if sync:
        os.sync()
    start = time.monotonic()
    call(*words)
    return time.monotonic() - start

def many(count, where):
    script = ("import os,sys\nbase,n=sys.argv[1],int(sys.argv[2])\n"
              "for d in range(n//100):\n os.makedirs(f'{base}/{d}')\n"
              " for f in range(100):\n  open(f'{base}/{d}/{f}','w').write(f'{d} {f}\\n'*20)\n")
    return ("python3", "-c", script, where, str(count))

rows = []
def row(what, times, reference=None):
    median = statistics.median(times)
    ratio = f"{median / statistics.median(reference):.2f}" if reference else ""
    rows.append(f"| {what} | {median * 1e3:.0f} | {min(times) * 1e3:.0f}–{max(times) * 1e3:.0f} | {ratio} |")
    print(rows[-1], file=sys.stderr)

copies, synced, kept, moved = [], [], [], []
for i in range(runs):
    call(*many(20_000, f"{home}/source"))
    copies.append(timed("cp", "-a", f"{home}/source", f"{work}/copy"))
    call("rm", "-rf", f"{work}/copy")
    synced.append(timed("sh", "-c", f"cp -a {home}/source {work}/copy; sync -f {work}"))
    call("rm", "-rf", f"{work}/copy", f"{home}/source")
    for flag, times in (["--keep"], kept), ([], moved):
        fv("run", "--keep", "--name", "many", "--", *many(20_000, f"{work}/new"))
        times.append(timed(fvm, "--home", f"{home}/state", "commit", "many", *flag))
        assert os.path.exists(f"{work}/new/199/99")
        fv("delete", "many")
        call("rm", "-rf", f"{work}/new")
        fv("gc", "--keep", "0")
row("`cp -a` of 20,000 small files", copies, copies)
row("the same, and `sync -f`", synced, copies)
row("`fvm commit --keep`: copied, synced", kept, copies)
row("`fvm commit`: moved, synced", moved, copies)

scans = []
fv("run", "--keep", "--name", "hundred", "--", *many(100_000, f"{work}/new"))
for i in range(runs):
    scans.append(timed(fvm, "--home", f"{home}/state", "status", "hundred"))
diffs = [timed(fvm, "--home", f"{home}/state", "diff", "--stat", "hundred") for _ in range(min(runs, 3))]
fv("delete", "hundred")
row("`fvm status`, 100,000 created files", scans)
row("`fvm diff --stat` of the same", diffs)

if gib == 0:
    sys.exit(print("\n".join(rows)))
big = []
for i in range(runs):
    fv("run", "--keep", "--name", "big", "--", "dd", "if=/dev/zero", f"of={work}/big", "bs=1M", f"count={1024 * gib}", "conv=fsync")
    big.append(timed(fvm, "--home", f"{home}/state", "commit", "big"))
    assert os.path.getsize(f"{work}/big") == gib << 30
    os.remove(f"{work}/big")
    fv("delete", "big")
row(f"`fvm commit` of one file of {gib} GiB", big)
print("| what | median ms | range ms | ratio to `cp -a` |\n|---|---|---|---|")
print("\n".join(rows))
PY
