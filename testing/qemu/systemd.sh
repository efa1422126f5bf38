#!/bin/sh
# Limits of an ordinary user's VM under a real systemd, in a virtual machine of its own (QEMU).
#
#   host ── debootstrap ─► root/ (Debian: kernel, systemd, python3, passt; this build's fvm; a user with a login session)
#        └─ mke2fs -d ───► disk.img ── qemu ─► serial console ─► this script's standard output
#
# Three boots: as Debian delegates controllers to users, with all of them, and with few:
# pids alone, and a kernel told to leave memory out. In each the user logs in on
# the console, as a person does, and check.sh runs in that session. The output is to be read; "FAILED" in it fails the script.
#
#   apt-get install qemu-system-x86 debootstrap e2fsprogs
#   cargo build -p fvm-cli && sudo testing/qemu/systemd.sh [WORK-DIRECTORY]
#
# Variables: RELEASE (bookworm; trixie has a systemd that may end a scope for one killed process), a WORK-DIRECTORY each; FVM, the binary (that of a debug build); QEMU (qemu-system-x86_64); PHASES; ACCEL, for machines whose KVM does not work:
# ACCEL='-accel tcg -cpu max', some minutes for each boot. Not part of CI: it takes minutes and loads a distribution. WORK-DIRECTORY/root is kept for the
# next time.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
work=${1:-/var/tmp/fvm-qemu}
fvm=${FVM:-$here/../../target/x86_64-unknown-linux-gnu/debug/fvm}
qemu=${QEMU:-qemu-system-x86_64}
mkdir -p "$work"
root=$work/root
if [ ! -e "$root/.complete" ]; then
    rm -rf "$root"
    debootstrap --variant=minbase --include=systemd,systemd-sysv,dbus,dbus-user-session,libpam-systemd,python3-minimal,linux-image-amd64,passt,iproute2,procps,kmod,udev \
        "${RELEASE:-bookworm}" "$root" "${MIRROR:-http://deb.debian.org/debian}"
    touch "$root/.complete"
fi
grep -q '^tester:' "$root/etc/passwd" || chroot "$root" useradd --create-home --shell /bin/sh tester
install -m 755 "$fvm" "$root/usr/local/bin/fvm"
install -m 755 "$here/check.sh" "$root/usr/local/bin/check.sh"
echo fvm-qemu > "$root/etc/hostname"
echo '/dev/vda / ext4 defaults 0 0' > "$root/etc/fstab"

# Which controllers users get: decided by the kernel's command line, before systemd reads its units.
mkdir -p "$root/etc/systemd/system-generators"
cat > "$root/etc/systemd/system-generators/fvm-delegate" <<'GENERATOR'
#!/bin/sh
read -r line < /proc/cmdline
case $line in
*fvm.delegate=all*) what='cpu cpuset io memory pids' ;;
*fvm.delegate=few*) what=pids ;;
*) exit 0 ;;
esac
mkdir -p "$1/user@.service.d"
# An empty one takes back the distribution's own.
printf '[Service]\nDelegate=\nDelegate=%s\n' "$what" > "$1/user@.service.d/zz-delegate.conf"
GENERATOR
chmod 755 "$root/etc/systemd/system-generators/fvm-delegate"

# The user logs in on the serial console; when check.sh has ended, the machine is turned off.
mkdir -p "$root/etc/systemd/system/serial-getty@ttyS0.service.d" "$root/etc/systemd/system/multi-user.target.wants"
printf '[Service]\nExecStart=\nExecStart=-/sbin/agetty --autologin tester --noclear ttyS0 115200 linux\n' \
    > "$root/etc/systemd/system/serial-getty@ttyS0.service.d/login.conf"
printf '[Path]\nPathExists=/home/tester/done\n' > "$root/etc/systemd/system/fvm-off.path"
printf '[Service]\nType=oneshot\nExecStart=/bin/systemctl poweroff\n' > "$root/etc/systemd/system/fvm-off.service"
ln -sf ../fvm-off.path "$root/etc/systemd/system/multi-user.target.wants/fvm-off.path"
echo 'check.sh 2>&1; touch ~/done' > "$root/home/tester/.profile"
rm -f "$root/home/tester/done"

accel=${ACCEL:--accel kvm -accel tcg -cpu max}
kernel=$(ls "$root"/boot/vmlinuz-* | tail -n 1)
initrd=$(ls "$root"/boot/initrd.img-* | tail -n 1)
status=0
for phase in ${PHASES:-default all few}; do
    rm -f "$work/disk.img"
    mke2fs -q -t ext4 -d "$root" "$work/disk.img" 4G
    echo "===== controllers for users: $phase"
    more=
    if [ "$phase" = few ]; then more=cgroup_disable=memory; fi
    # shellcheck disable=SC2086
    timeout "${LONGEST_S:-900}" $qemu $accel -m 1536 -smp 2 -nographic -no-reboot -nic none \
        -kernel "$kernel" -initrd "$initrd" -drive "file=$work/disk.img,format=raw,if=virtio,cache=unsafe" \
        -append "root=/dev/vda rw console=ttyS0 quiet loglevel=3 $more fvm.delegate=$phase" < /dev/null > "$work/$phase.log" 2>&1 || status=1
    sed -n '/^FVM-CHECK/,$p' "$work/$phase.log" | tr -d '\r'
    if grep -q FAILED "$work/$phase.log" || ! grep -q '^FVM-CHECK END' "$work/$phase.log"; then status=1; fi
done
exit $status
