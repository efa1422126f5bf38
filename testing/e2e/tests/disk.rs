//! What a VM's changes may take on the disk: more is refused inside, told outside, and nothing of it stays.
#![allow(clippy::unwrap_used, reason = "test code: a failure is a failure of the test")]

use fvm_kit::{Lab, User, is_root};
use std::path::Path;

fn can_have_disks(test: &str) -> bool {
    if !is_root(test) {
        return false;
    }
    let can = Path::new("/dev/loop-control").exists() && Path::new("/usr/sbin/mkfs.ext4").exists();
    if !can {
        eprintln!("skipped: {test}: no loop devices, or no mkfs.ext4");
    }
    can
}

/// Loop devices that hold something of this laboratory's, and mounts of it that the host sees.
fn left(lab: &Lab) -> Vec<String> {
    let home = lab.home().display().to_string();
    let devices = std::fs::read_dir("/sys/block").unwrap().flatten();
    let files = devices.filter_map(|d| std::fs::read_to_string(d.path().join("loop/backing_file")).ok());
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mounts: Vec<String> = mounts.lines().map(ToOwned::to_owned).collect();
    files.chain(mounts).filter(|line| line.contains(&home)).collect()
}

fn await_none_left(lab: &Lab) {
    let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !left(lab).is_empty() && std::time::Instant::now() < until {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert_eq!(left(lab), Vec::<String>::new());
}

#[test]
fn root_a_disk_that_is_full_is_refused_inside_and_told_outside_needs_loop_devices() {
    if !can_have_disks("root_a_disk_that_is_full_is_refused_inside_and_told_outside_needs_loop_devices") {
        return;
    }
    let lab = Lab::new(User::Root);
    lab.fvm(["create", "other", "--net", "none"]).expect(0);
    lab.fvm(["start", "other"]).expect(0);
    let fill = "dd if=/dev/zero of=big bs=1M; for i in 1 2 3; do echo $i > more$i; done; dd if=/dev/zero of=rest bs=1K";
    let ran = lab.fvm(["run", "--keep", "--name", "d", "--net", "none", "--disk", "32M", "--", "sh", "-c", fill]);
    assert!(ran.err.contains("No space left on device"), "{}", ran.err);
    assert!(ran.err.contains("d: its disk of 32M is full"), "{}", ran.err);
    assert!(lab.fvm(["inspect", "d"]).expect(0).out.contains("its disk of 32M is full"));
    // The host and other VMs have all the room that they had.
    lab.fvm(["exec", "other", "sh", "-c", "dd if=/dev/zero of=x bs=1M count=40 2>&1"]).expect(0);
    lab.fvm(["kill", "other"]).expect(0);
    await_none_left(&lab);
    // Room is made, inside and by throwing changes away outside; the next run begins with a clean record.
    lab.fvm(["discard", "d", &lab.path("rest").display().to_string()]).expect(0);
    let ran =
        lab.fvm(["run", "--name", "d", "--", "sh", "-ec", "rm big; dd if=/dev/zero of=x bs=1M count=5 2>/dev/null"]);
    ran.expect(0);
    assert!(!lab.fvm(["inspect", "d"]).expect(0).out.contains("full"));
    let status = lab.fvm(["status", "d"]).expect(0).out;
    assert!(status.contains("/more1") && status.contains("/x") && !status.contains("/rest"), "{status}");
    lab.fvm(["delete", "d", "other"]).expect(0);
    await_none_left(&lab);
}

#[test]
fn root_a_vm_with_a_disk_is_like_any_other_needs_loop_devices() {
    if !can_have_disks("root_a_vm_with_a_disk_is_like_any_other_needs_loop_devices") {
        return;
    }
    let lab = Lab::new(User::Root);
    lab.sh("mkdir d; echo one > d/f; echo moved > d/g; echo old > d/old; ln d/old d/link; chmod 700 d");
    let work = "echo two >> d/f; rm d/old; mkdir -p new/deep; echo x > new/deep/x; chown 12:34 new; setfattr -n user.a -v b new/deep/x
                ln new/deep/x new/y; mv d/g d/h";
    for (name, more) in [("plain", &[][..]), ("disk", &["--disk", "64M"])] {
        let words = ["run", "--quiet", "--keep", "--name", name, "--net", "none"];
        lab.fvm(words.iter().chain(more).chain(&["--", "sh", "-ec", work])).expect(0);
    }
    let told = |name: &str| {
        let status = lab.fvm(["status", name]).expect(0).out;
        let lines: Vec<String> = status.lines().skip(1).map(ToOwned::to_owned).collect();
        (lines, lab.fvm(["diff", name]).expect(0).out)
    };
    assert_eq!(told("disk"), told("plain"));
    assert!(!told("disk").0.is_empty());
    // While it runs, it is looked at as well.
    lab.fvm(["start", "disk"]).expect(0);
    assert_eq!(told("disk"), told("plain"));
    lab.fvm(["exec", "disk", "sh", "-c", "echo more > d/more"]).expect(0);
    assert_eq!(told("disk").0.len(), told("plain").0.len() + 1);
    let keeper = rustix::process::Pid::from_raw(lab.number("disk", "keeper_pid").unwrap()).unwrap();
    rustix::process::kill_process(keeper, rustix::process::Signal::KILL).unwrap();
    await_none_left(&lab);
    lab.fvm(["discard", "disk", &lab.path("d/more").display().to_string()]).expect(0);

    // A copy has a disk of its own, the same or a larger one; one of a VM without stands on what both share.
    lab.fvm(["copy", "disk", "copy"]).expect(0);
    lab.fvm(["create", "larger", "--from", "disk", "--disk", "128M", "--net", "none"]).expect(0);
    lab.fvm(["create", "limited", "--from", "plain", "--disk", "32M", "--net", "none"]).expect(0);
    for (name, mib) in [("copy", 64u64), ("larger", 128), ("limited", 32)] {
        assert_eq!(told(name), told("plain"), "{name}");
        let room = "df --output=size -k . | tail -1; echo mine > d/mine";
        let room = lab.fvm(["run", "--quiet", "--name", name, "--", "sh", "-c", room]).expect(0).out;
        let room: u64 = room.trim().parse().unwrap();
        assert!(room > mib * 700 && room < mib * 1024, "{name}: {room}");
        assert_eq!(told(name).0.len(), told("plain").0.len() + 1, "{name}");
    }
    assert_eq!(told("disk"), told("plain"));
    // A smaller one is refused, and nothing comes of it.
    let refused = lab.fvm(["create", "small", "--from", "disk", "--disk", "16M"]).expect(1);
    assert!(refused.err.contains("cannot become smaller"), "{}", refused.err);
    lab.fvm(["inspect", "small"]).expect(4);

    // It grows, with all that is in it, and does not shrink.
    lab.fvm(["configure", "disk", "--disk", "96M"]).expect(0);
    assert_eq!(told("disk"), told("plain"));
    for smaller in ["80M", "none"] {
        assert!(
            lab.fvm(["configure", "disk", "--disk", smaller]).expect(1).err.contains("smaller")
                || smaller == "none"
                    && lab.fvm(["configure", "disk", "--disk", smaller]).expect(1).err.contains("larger")
        );
    }
    assert!(lab.fvm(["inspect", "disk"]).expect(0).out.contains("\"disk_bytes\": 100663296"));
    // While it runs too, where the kernel lets this process (CAP_SYS_RESOURCE); else it says when.
    lab.fvm(["start", "disk"]).expect(0);
    let grown = lab.fvm(["configure", "disk", "--disk", "128M"]);
    let room: u64 =
        lab.fvm(["exec", "disk", "sh", "-c", "df --output=size -k . | tail -1"]).expect(0).out.trim().parse().unwrap();
    // Bit 24 of the effective capabilities.
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap().trim();
    if u64::from_str_radix(effective, 16).unwrap() & (1 << 24) != 0 {
        assert!(grown.code == 0 && room > 100 << 10, "{} {room}", grown.err);
    } else {
        eprintln!("not tried: growing a disk that is in use (no CAP_SYS_RESOURCE)");
        assert!(
            grown.code == 1 && grown.err.contains("while the VM is stopped") && room < 96 << 10,
            "{} {room}",
            grown.err
        );
    }
    lab.fvm(["stop", "-t", "1", "disk"]).expect(0);
    assert_eq!(told("disk"), told("plain"));

    // Out and in again, into a disk as well.
    lab.fvm(["export", "disk", "disk.fvm"]).expect(0);
    lab.fvm(["import", "--trust", "disk.fvm", "--name", "back"]).expect(0);
    assert_eq!(told("back"), told("plain"));
    assert!(lab.fvm(["inspect", "back"]).expect(0).out.contains("/disk/layers"));
    let refused = lab.fvm(["import", "--trust", "disk.fvm", "--name", "tiny", "--disk", "8M"]).expect(2);
    assert!(refused.err.contains("'8M' is too little"), "{}", refused.err);

    // And to the host, from whichever.
    lab.fvm(["commit", "limited"]).expect(0);
    assert_eq!(
        lab.sh("cat d/f d/h new/y d/mine; stat -c '%u:%g %h' new new/y; getfattr --only-values -n user.a new/y"),
        "one\ntwo\nmoved\nx\nmine\n12:34 3\n0:0 2\nb"
    );
    lab.fvm(["undo", "1"]).expect(0);
    assert_eq!(lab.sh("cat d/f d/old d/g; ls -d d/* new || true"), "one\nold\nmoved\nd/f\nd/g\nd/link\nd/old\n");
    // What was undone was written again: the host changed.
    lab.fvm(["commit", "disk", "--on-conflict", "vm"]).expect(0);
    assert_eq!(lab.sh("cat d/f; ls d"), "one\ntwo\nf\nh\nlink\n");
    let names = ["disk", "plain", "copy", "larger", "limited", "back"];
    lab.fvm(["delete"].iter().chain(&names)).expect(0);
    await_none_left(&lab);
}

#[test]
fn root_a_copy_into_an_image_knows_what_the_host_changed_before_it_needs_loop_devices() {
    if !can_have_disks("root_a_copy_into_an_image_knows_what_the_host_changed_before_it_needs_loop_devices") {
        return;
    }
    let lab = Lab::new(User::Root);
    let pause = || std::thread::sleep(std::time::Duration::from_millis(30));
    lab.sh("echo base > f");
    lab.fvm(["run", "--quiet", "--keep", "--name", "v", "--net", "none", "--", "sh", "-ec", "echo vm >> f"]).expect(0);
    pause();
    lab.sh("echo host > f");
    pause();
    // Its files are copied one by one, and are younger than the host's change.
    lab.fvm(["configure", "v", "--disk", "100M"]).expect(0);
    lab.fvm(["copy", "v", "w"]).expect(0);
    for name in ["v", "w"] {
        let status = lab.fvm(["status", name]).expect(0).out;
        assert!(status.contains("conflict"), "{status}");
        lab.fvm(["commit", name]).expect(3);
    }
    assert_eq!(lab.sh("cat f"), "host\n");
    // What the copy itself takes from the host is as new as that.
    lab.sh("echo base > g");
    lab.fvm(["run", "--quiet", "--name", "w", "--", "sh", "-ec", "echo vm >> g"]).expect(0);
    assert!(!lab.fvm(["status", "w", "g"]).out.contains("g  ! conflict"));
    lab.fvm(["commit", "w", "g"]).expect(0);
    assert_eq!(lab.sh("cat g"), "base\nvm\n");
}

#[test]
fn root_and_user_a_watched_disk_ends_the_vm_that_fills_it() {
    let test = "root_and_user_a_watched_disk_ends_the_vm_that_fills_it";
    if !is_root(test) {
        return;
    }
    let lab = Lab::new(User::Ordinary);
    let fill = "i=0; while :; do dd if=/dev/zero of=f$i bs=1M count=4 2>/dev/null; i=$((i+1)); sleep 0.05; done";
    let ran =
        lab.fvm(["run", "--keep", "--name", "d", "--net", "none", "--disk", "16M", "--", "sh", "-c", fill]).expect(125);
    assert!(ran.err.contains("its disk limit is watched"), "{}", ran.err);
    assert!(ran.err.contains("more than its limit of 16M, and was ended"), "{}", ran.err);
    assert!(lab.fvm(["inspect", "d"]).expect(0).out.contains("more than its limit of 16M"));
    // A limit that is watched is changed while the VM runs; one that nobody watches, is not.
    lab.fvm(["create", "w", "--net", "none", "--disk", "64M"]).expect(0);
    lab.fvm(["start", "w"]).expect(0);
    lab.fvm(["configure", "w", "--disk", "16M"]).expect(0);
    let ran = lab.fvm(["exec", "w", "sh", "-c", fill]);
    assert_eq!(ran.code, 125, "{}", ran.err);
    // Its keeper says why a moment after it ended.
    let told = || lab.fvm(["inspect", "w"]).expect(0).out.contains("its limit of 16M");
    let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while !told() && std::time::Instant::now() < until {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert!(told());
    lab.fvm(["create", "n", "--net", "none"]).expect(0);
    lab.fvm(["start", "n"]).expect(0);
    assert!(lab.fvm(["configure", "n", "--disk", "64M"]).expect(1).err.contains("stop it first"));
    lab.fvm(["delete", "-f", "n", "w"]).expect(0);
    // What it wrote is there; with less of it, it runs again.
    assert!(lab.fvm(["status", "d"]).expect(0).out.contains("/f0"));
    lab.fvm(["discard", "d"]).expect(0);
    lab.fvm(["run", "--name", "d", "--", "sh", "-c", "sleep 1.5; echo fine"]).expect(0);
    assert!(!lab.fvm(["inspect", "d"]).expect(0).out.contains("ended"));
}

#[test]
fn root_disks_are_shared_by_weight_needs_bfq_loop_devices() {
    let test = "root_disks_are_shared_by_weight_needs_bfq_loop_devices";
    if !can_have_disks(test) {
        return;
    }
    let lab = Lab::new(User::Root);
    let disk = lab.sh("truncate -s 64M file; losetup -f --show file").trim().to_owned();
    let name = disk.strip_prefix("/dev/").unwrap();
    let scheduler = Path::new("/sys/block").join(name).join("queue/scheduler");
    let before = std::fs::read_to_string(&scheduler).unwrap();
    let group =
        ["/sys/fs/cgroup/blkio", "/sys/fs/cgroup"].iter().find(|dir| Path::new(dir).join("cgroup.procs").exists());
    if let (true, Some(group)) = (before.contains("bfq") && std::fs::write(&scheduler, "bfq").is_ok(), group) {
        lab.fvm(["create", "w", "--io-weight", "30", "--net", "none"]).expect(0);
        lab.fvm(["start", "w"]).expect(0);
        let json = lab.fvm(["inspect", "w"]).expect(0).out;
        let id = json.split("\"id\": \"").nth(1).unwrap().split('"').next().unwrap();
        let dir = Path::new(group).join("fvm").join(id);
        let file = ["blkio.bfq.weight", "io.bfq.weight", "io.weight"].iter().map(|f| dir.join(f)).find(|f| f.exists());
        let weight = std::fs::read_to_string(file.unwrap()).unwrap();
        assert!(weight.trim().ends_with("30"), "{weight}");
        lab.fvm(["delete", "-f", "w"]).expect(0);
    } else {
        eprintln!("skipped: {test}: no BFQ here: {before}");
    }
    let chosen = before.split(['[', ']']).nth(1).unwrap_or("none");
    std::fs::write(&scheduler, chosen).unwrap();
    lab.sh(&format!("losetup -d {disk}"));
}

#[test]
fn root_a_disk_that_the_host_has_no_room_for_is_not_made_needs_loop_devices() {
    if !can_have_disks("root_a_disk_that_the_host_has_no_room_for_is_not_made_needs_loop_devices") {
        return;
    }
    let lab = Lab::new(User::Root);
    let home = lab.home().display().to_string();
    let fvm = format!("{} --home {home}", fvm_kit::binary().display());
    let host = lab.dir().join("host.img").display().to_string();
    // What is told to be written must have its place: a disk that is only promised loses it. On ext4, which keeps what it could reserve:
    // one that found no room takes none.
    let script = format!(
        "mkdir -p {home}; truncate -s 80M {host}; mkfs.ext4 -qF {host}; mount -o loop {host} {home}; chmod 700 {home}
         {fvm} create v --net none --disk 1G 2>&1 || true; {fvm} list | wc -l
         {fvm} run --keep --name w --net none --disk 32M -- dd if=/dev/zero of=/var/tmp/x bs=1M count=20 2>/dev/null
         dd if=/dev/zero of={home}/filler bs=1M 2>/dev/null || true
         {fvm} run --name w -- sh -c 'dd if=/dev/urandom of=/var/tmp/y bs=1M count=4 2>/dev/null; sync; cksum < /var/tmp/y'
         {fvm} run --name w -- sh -c 'cksum < /var/tmp/y'; rm {home}/filler; {fvm} delete w"
    );
    let mut alone = lab.command("unshare");
    let ran = fvm_kit::Ran::of(alone.args(["-m", "sh", "-c", &script]).output().unwrap()).expect(0);
    assert!(ran.out.contains("reserve 1G") && ran.out.contains("No space left"), "{}{}", ran.out, ran.err);
    let lines: Vec<&str> = ran.out.lines().collect();
    assert!(lines.contains(&"1"), "no VM is left: {}", ran.out);
    let sums: Vec<&&str> = lines.iter().filter(|line| line.ends_with(" 4194304")).collect();
    assert!(sums.len() == 2 && sums[0] == sums[1], "{}{}", ran.out, ran.err);
    await_none_left(&lab);
}
