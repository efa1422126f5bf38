#!/bin/sh
# Run by systemd.sh in its virtual machine, in an ordinary user's login session.
hog='x = []
while True: x.append(bytearray(1 << 20))'
bomb='i=0; while [ $i -lt 60 ]; do sleep 1 & i=$((i+1)); done; wait; echo survived'
spin='import time
began, used = time.monotonic(), time.process_time()
while time.monotonic() - began < 5: pass
used = time.process_time() - used
print("processor time in 5 s: %.2f s" % used, "held" if used < 1.3 else "NOT HELD")'

export SYSTEMD_PAGER= PAGER=cat TERM=dumb SYSTEMD_COLORS=0
phase=$(sed 's/.*fvm.delegate=//' /proc/cmdline)
step() { echo "--- $*"; }
# expect CODE TEXT COMMAND...: TEXT is in what the command says.
expect() {
    code=$1 text=$2
    shift 2
    said=$("$@" 2>&1)
    got=$?
    echo "$said"
    echo "(exit $got)"
    if [ $got != "$code" ]; then echo "FAILED: exit $got, not $code"; fi
    case $said in *"$text"*) ;; *) echo "FAILED: not said: $text" ;; esac
}
none() {
    sleep 1
    left=$(systemctl --user list-units --all --no-legend 'fvm-*')
    if [ -n "$left" ]; then echo "FAILED: left over: $left"; fi
    if pgrep -u tester -f '^fvm: ' > /dev/null; then echo "FAILED: processes are left"; fi
}

echo "FVM-CHECK $phase: $(uname -r), systemd $(systemctl --version | sed -n '1s/systemd //p')"
cat /proc/self/cgroup
cat "/sys/fs/cgroup/user.slice/user-$(id -u).slice/user@$(id -u).service/cgroup.controllers"
grep cgroup2 /proc/self/mounts
step doctor
fvm doctor | grep -A2 cgroups

if [ "$phase" = few ]; then
    step refused
    expect 125 "this user's systemd has no controller 'memory'" fvm run --rm --net none --memory 64M -- true
    expect 0 "without a limit of memory" fvm run --rm --net none --allow-partial --memory 64M --pids 20 -- true
else
    step memory
    expect 137 "it reached its memory limit of 64M: 1 process was killed" fvm run --rm --net none --memory 64M -- python3 -c "$hog"
    none
    step memory, with a network of its own
    expect 137 "it reached its memory limit of 64M: 1 process was killed" fvm run --rm --memory 64M -- python3 -c "$hog"
    none
    step one killed, the others live
    expect 0 "lives on" fvm run --rm --net none --memory 64M -- sh -c 'python3 -c "$1"; echo "lives on"' sh "$hog"
    step below the limit
    expect 0 fine fvm run --rm --net none --memory 64M -- echo fine
    step what the VM sees
    fvm run --rm --net none --memory 64M -- sh -c 'cat /proc/self/cgroup; ls /sys/fs/cgroup'
    step the VM lifts its limit
    expect 137 "it reached its memory limit" fvm run --rm --net none --memory 64M -- sh -c '
        mkdir -p /tmp/c
        for way in env "unshare -Ur" "unshare -Urm" "unshare -UrCm"; do
            echo "$way:"
            $way sh -c "mount -t cgroup2 none /tmp/c; find /sys/fs/cgroup /tmp/c -name memory.max |
                while read -r f; do ls -l \$f; if echo max > \$f; then echo FAILED: lifted \$f; fi; done" 2>&1 | tail -n 4
        done
        exec python3 -c "$1"' sh "$hog"
    step kept, with its record
    fvm create m --net none --memory 64M --pids 40
    fvm run --name m -- python3 -c "$hog" > /dev/null 2>&1
    fvm inspect m | grep reached || echo "FAILED: not told"
    step running
    fvm start m
    unit=$(systemctl --user list-units --plain --no-legend 'fvm-*' | cut -d' ' -f1)
    systemctl --user show "$unit" -p Id -p MemoryMax -p MemorySwapMax -p TasksMax -p Delegate -p ControlGroup
    fvm exec m sh -c 'sleep 1000 & sleep 1'
    fvm stats m
    step its keeper is killed
    kill -9 "$(fvm inspect m | sed -n 's/.*"keeper_pid": \([0-9]*\).*/\1/p')"
    none
    fvm start m && fvm stop m
    none
    step how long
    for limit in '' '--memory 64M'; do
        begin=$(date +%s%N)
        # shellcheck disable=SC2086
        for _ in 1 2 3 4 5; do fvm run --rm --net none $limit -- true; done
        echo "5 runs with '$limit': $((($(date +%s%N) - begin) / 1000000)) ms (a debug build)"
    done
fi
step processes
expect 0 "" fvm run --rm --net none --pids 64 -- sh -c "$bomb"
expect 2 "it reached its limit of 20 processes" fvm run --rm --net none --pids 20 -- sh -c "$bomb"
none
step processors
if grep -qw cpu "/sys/fs/cgroup/user.slice/user-$(id -u).slice/user@$(id -u).service/cgroup.controllers"; then
    expect 0 " held" fvm run --rm --net none --cpus 0.2 -- python3 -c "$spin"
    expect 0 "" fvm run --rm --net none --cpu-weight 50 -- true
else
    expect 125 "this user's systemd has no controller 'cpu'" fvm run --rm --net none --cpus 0.2 -- true
fi
none
step under systemd itself, not in a session
expect 2 "it reached its limit of 20 processes" \
    systemd-run --user --wait --pipe --quiet -- fvm run --rm --net none --pids 20 -- sh -c "$bomb"
step with an empty environment
expect 2 "it reached its limit of 20 processes" env -i PATH="$PATH" HOME="$HOME" fvm run --rm --net none --pids 20 -- sh -c "$bomb"
echo "FVM-CHECK END"
