//! Many VMs through their whole life at once, killed at random on the way: nothing of them is left.
//!
//! `FVM_TEST_VMS` says how many (40 if nothing does).
#![allow(clippy::unwrap_used, reason = "test code: a failure is a failure of the test")]

mod network_world;

use fvm_kit::User;
use network_world::World;
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How many go at once.
const PARALLEL: usize = 8;

/// Everything that a VM could leave on this machine, one thing a line.
fn left(world: &World) -> String {
    let home = world.lab.home().display().to_string();
    world.root(&format!(
        "set +e
         ip -o link | grep -o 'fvm-[0-9]*-[0-9]*' | sort -u
         ip route | grep fvm-; ip -6 route | grep fvm-
         grep -o '@fvm-.*' /proc/net/unix
         ps -eo pid=,stat=,args= | grep 'fvm: \\|--home {home}\\|pasta --config' | grep -v 'grep\\|sh -ec\\| Z'
         grep {home} /proc/self/mountinfo
         ls {home}/vms | while read id; do find /sys/fs/cgroup -maxdepth 3 -path \"*/fvm/$id\" 2>/dev/null; done
         ls {home}/vms {home}/trash {home}/run 2>/dev/null | grep '^[0-9a-f]\\{{12\\}}'
         ls /run/fvm | grep -v '^net.lock$'
         true"
    ))
}

fn churn(test: &str, user: User) {
    network_world::in_a_world(test, user, |world| {
        let count = std::env::var("FVM_TEST_VMS").ok().and_then(|n| n.parse().ok()).unwrap_or(40);
        // What other tests keep there is not ours.
        world.root("mkdir -p /run/fvm; mount -t tmpfs -o mode=755 none /run/fvm");
        world.lab.fvm(["list"]).expect(0);
        let rules =
            |world: &World| world.root("nft list ruleset 2>/dev/null | wc -l; cat /proc/sys/net/ipv4/ip_forward");
        // The host's table and its forwarding are made once, and stay.
        world.lab.fvm(["run", "--rm", "--net", "own", "--", "true"]).expect(0);
        let before = rules(world);
        let next = AtomicU32::new(0);
        let (done, killed) = (AtomicU32::new(0), AtomicU32::new(0));
        std::thread::scope(|scope| {
            for _ in 0..PARALLEL {
                scope.spawn(|| {
                    loop {
                        let n = next.fetch_add(1, Ordering::Relaxed);
                        if n >= count {
                            return;
                        }
                        one(world, n, &done, &killed);
                    }
                });
            }
        });
        assert!(done.load(Ordering::Relaxed) >= count / 2, "{done:?} of {count} went through");
        assert!(count < 20 || killed.load(Ordering::Relaxed) > 0);
        // One command of any kind takes away what the killed ones left.
        world.lab.fvm(["recover"]).expect(0);
        let names = world.lab.fvm(["list"]).expect(0).out;
        for name in names.lines().skip(1).filter_map(|line| line.split_whitespace().next()) {
            world.lab.fvm(["delete", "--force", name]).expect(0);
        }
        // An ordinary user's VM has a score of layers, and other tests run beside this one.
        let end = Instant::now() + Duration::from_secs(150);
        while !left(world).is_empty() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(100));
            world.lab.fvm(["recover"]).expect(0);
        }
        assert_eq!(left(world), "");
        assert_eq!(rules(world), before);
        // The machine works as before.
        world.lab.fvm(["run", "--rm", "--net", "own", "--", "true"]).expect(0);
    });
}

/// One VM. Every third is killed somewhere: its keeper, its init, or the command that works on it.
fn one(world: &World, n: u32, done: &AtomicU32, killed: &AtomicU32) {
    let name = format!("v{n}");
    // A small generator, so that a failure can be repeated.
    let mut state = u64::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut random = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let steps: [&[&str]; 7] = [
        &["create", &name, "--net", "own"],
        &["start", &name],
        &["exec", &name, "--", "sh", "-c", "echo changed > /var/tmp/churn; sleep 300 >/dev/null 2>&1 & true"],
        &["suspend", &name],
        &["resume", &name],
        &["stop", "-t", "1", &name],
        &["delete", &name],
    ];
    let victim = (n % 3 == 2).then(|| (usize::try_from(random(7)).unwrap(), random(3), random(120)));
    for (step, words) in steps.iter().enumerate() {
        if let Some((at, whom, after_ms)) = victim
            && at == step
        {
            killed.fetch_add(1, Ordering::Relaxed);
            let pid = match whom {
                0 => world.lab.number(&name, "keeper_pid"),
                1 => world.lab.number(&name, "init_pid"),
                _ => None,
            };
            match pid {
                Some(pid) => drop(world.root(&format!("kill -9 {pid} 2>/dev/null || true"))),
                None => {
                    let mut command = world.lab.fvm_command(words.iter());
                    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
                    std::thread::sleep(Duration::from_millis(after_ms));
                    let _ended = child.kill();
                    child.wait().unwrap();
                }
            }
            return;
        }
        let ran = world.lab.fvm(words.iter());
        assert_eq!(ran.code, 0, "{words:?}: {ran:?}");
    }
    done.fetch_add(1, Ordering::Relaxed);
}

#[test]
fn root_vms_that_live_and_die_in_numbers_leave_nothing_needs_root_pasta() {
    churn("root_vms_that_live_and_die_in_numbers_leave_nothing_needs_root_pasta", User::Root);
}

#[test]
fn users_vms_that_live_and_die_in_numbers_leave_nothing_needs_root_pasta() {
    churn("users_vms_that_live_and_die_in_numbers_leave_nothing_needs_root_pasta", User::Ordinary);
}
