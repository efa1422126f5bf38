//! A place for layers that another user made first. In a process of its own: it takes that place from every other test.
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
    let told = lab.fvm(["run", "--rm", "--", "true"]);
    std::fs::remove_dir_all(&trap).unwrap();
    assert_eq!(told.code, 125, "{}", told.err);
    lab.fvm(["run", "--rm", "--", "true"]).expect(0);
}
