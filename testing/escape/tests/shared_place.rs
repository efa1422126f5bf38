//! A place for layers that another user made first: it is left alone, and the VM's layers go elsewhere. In a process of its own: it takes that place from every other test.
#![allow(clippy::unwrap_used, reason = "test code: a failure is a failure of the test")]

use fvm_kit::{Lab, User, is_root};

#[test]
fn root_layers_are_not_put_where_another_user_rules() {
    if !is_root("root_layers_are_not_put_where_another_user_rules") {
        return;
    }
    let lab = Lab::new(User::Ordinary);
    let uid = lab.sh("id -u").trim().to_owned();
    let trap = std::path::PathBuf::from(format!("/dev/shm/fvm-{uid}"));
    let _gone = std::fs::remove_dir_all(&trap);
    std::fs::create_dir(&trap).unwrap();
    std::os::unix::fs::chown(&trap, Some(12345), Some(12345)).unwrap();
    let ran = lab.fvm(["run", "--rm", "--", "true"]);
    let put: Vec<_> = std::fs::read_dir(&trap).unwrap().flatten().map(|e| e.path()).collect();
    std::fs::remove_dir_all(&trap).unwrap();
    ran.expect(0);
    assert!(put.is_empty(), "put where another user rules: {put:?}");
    lab.fvm(["run", "--rm", "--", "true"]).expect(0);
}
