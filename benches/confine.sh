#!/usr/bin/env bash
# What confinement costs a program that runs: system calls one by one, then a build and a walk over /usr; outside, in
# bubblewrap, in a VM; in one session, interleaved. Writes Markdown tables to standard output.
# Needs gcc, make, python3, bubblewrap (Debian packages) and a release build: cargo build --release -p fvm-cli
# Usage: benches/confine.sh [ROUNDS] [fvm run option...]      as root it measures root mode, as a user rootless mode
set -euo pipefail
rounds=${1:-5}
[ $# -eq 0 ] || shift
here=$(cd "$(dirname "$0")/.." && pwd)
fvm=${FVM:-$(find "$here/target" -path '*release/fvm' -type f -perm -u+x | head -n 1)}
[ -x "$fvm" ] || { echo "no release build: cargo build --release -p fvm-cli" >&2; exit 1; }
work=$(mktemp -d "${TMPDIR:-/var/tmp}/fvm-confine.XXXXXX")
trap 'rm -rf "$work"' EXIT
export FVM_HOME=$work/state
mkdir "$work/own"
gcc -O2 -pthread -o "$work/calls" "$here/benches/calls.c"
# A program of 120 files, as make builds it: half compiler, half small processes and headers.
mkdir "$work/tree"
for i in $(seq 120); do
    printf '#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n#include <unistd.h>\nint f%d(int a){char b[64];snprintf(b,64,"%%d",a);return (int)strlen(b)+getpid()%%%d;}\n' "$i" $((i + 1)) >"$work/tree/f$i.c"
done
printf 'O=$(patsubst %%.c,%%.o,$(wildcard *.c))\nall: $(O)\n\tar rcs libf.a $(O)\n%%.o: %%.c\n\tgcc -O1 -c -o $@ $<\n' >"$work/tree/Makefile"
python3 - "$rounds" "$fvm" "$work" "$@" <<'PY'
import statistics, subprocess, sys, time
rounds, fvm, work, options = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4:]
bwrap = "bwrap --bind / / --dev /dev --proc /proc --unshare-user --unshare-pid --unshare-ipc --unshare-uts".split()
places = {"outside": [], "bubblewrap": bwrap, "fvm": [fvm, "run", "--rm", "-q", *options, "--"]}

def table(title, rows, digits, unit):
    print(f"| {title} | outside {unit} | bubblewrap | fvm |\n|---|---|---|---|")
    for name, row in rows.items():
        out = statistics.median(row["outside"])
        ratio = lambda p: f'{statistics.median(row[p]) / out:.2f}'
        print(f'| {name} | {out:.{digits}f} | {ratio("bubblewrap")} | {ratio("fvm")} |')
    print()

calls = {}
for _ in range(rounds):
    for place, prefix in places.items():
        out = subprocess.run(prefix + [f"{work}/calls", f"{work}/own"], check=True, capture_output=True, text=True).stdout
        for line in out.splitlines():
            name, nanos = line.split("\t")
            calls.setdefault(name, {}).setdefault(place, []).append(float(nanos) / 1e3)
table("operation", calls, 2, "µs")

# Timed inside, so that the start of the sandbox, measured elsewhere, is not in it.
timer = 'cd "$1"; b=$(date +%s%N); eval "$2" >/dev/null 2>&1 || exit 1; e=$(date +%s%N); echo $((e-b))'
jobs = {
    "make -j2 of 120 C files": f"make -C {work}/tree -j2 -B",
    "a walk: find /usr -type f": "find /usr -type f; true",
    "the same, with the data of each file's inode": "find /usr -type f -size +1c; true",
    "tar of /usr/share/doc to nowhere": "tar -C /usr/share -cf - doc | cat",
    "2,000 files written, read, removed": f'mkdir {work}/own/m; cd {work}/own/m; i=0; while [ $i -lt 2000 ]; do echo x > f$i; i=$((i+1)); done; cat f* ; rm -r {work}/own/m',
    "500 processes of the shell": "i=0; while [ $i -lt 500 ]; do /bin/true; i=$((i+1)); done",
}
times = {}
for name, job in jobs.items():
    for n in range(rounds + 1):
        for place, prefix in places.items():
            run = prefix + ["sh", "-c", timer, "sh", work, job]
            nanos = int(subprocess.run(run, check=True, capture_output=True, text=True).stdout)
            if n:  # the first is to warm up
                times.setdefault(name, {}).setdefault(place, []).append(nanos / 1e6)
table("job", times, 0, "ms")
for name, row in times.items():
    print(f'{name}: ranges ' + ", ".join(f'{p} {min(t):.0f}–{max(t):.0f}' for p, t in row.items()), file=sys.stderr)
PY
