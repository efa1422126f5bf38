//! Which of our crates may depend on which (`ARCHITECTURE.md`): a stage never depends on a later one.

use serde_json::Value;
use std::process::Command;

/// A crate and all of our crates that it may depend on. Dev-dependencies are exempt; crates that are not listed
/// (xtask, testing, benches) are not part of the product.
const ALLOWED: &[(&str, &[&str])] = &[
    ("fvm-model", &[]),
    ("fvm-sys", &[]),
    ("fvm-host", &["fvm-model", "fvm-sys", "fvm-net"]),
    ("fvm-service", &["fvm-model"]),
    ("fvm-net", &["fvm-model"]),
    ("fvm-trace", &["fvm-model", "fvm-sys"]),
    ("fvm-analyze", &["fvm-model", "fvm-trace"]),
    ("fvm-vm", &["fvm-model", "fvm-sys", "fvm-host", "fvm-service", "fvm-net", "fvm-trace"]),
    ("fvm-changes", &["fvm-model", "fvm-sys"]),
    ("fvm-review", &["fvm-model", "fvm-sys"]),
    ("fvm-commit", &["fvm-model", "fvm-sys"]),
    ("fvm-registry", &["fvm-model"]),
    ("fvm-marks", &["fvm-model", "fvm-sys"]),
    ("fvm-transfer", &["fvm-model", "fvm-sys"]),
    (
        "fvm",
        &[
            "fvm-registry",
            "fvm-transfer",
            "fvm-model",
            "fvm-sys",
            "fvm-host",
            "fvm-vm",
            "fvm-changes",
            "fvm-review",
            "fvm-commit",
            "fvm-trace",
            "fvm-analyze",
            "fvm-marks",
        ],
    ),
    ("fvm-secure", &["fvm", "fvm-sys"]),
    ("fvm-webtest", &["fvm", "fvm-net", "fvm-sys"]),
    ("fvm-ahead", &["fvm-sys"]),
    ("fvm-cli", &["fvm", "fvm-ahead", "fvm-secure", "fvm-sys"]),
];

#[test]
fn no_crate_depends_on_a_later_stage() {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let out = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .arg("--manifest-path")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"))
        .output()
        .expect("cargo can be run");
    assert!(out.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&out.stderr));
    let metadata: Value = serde_json::from_slice(&out.stdout).expect("cargo metadata is JSON");
    let edges = edges(&metadata);
    assert!(edges.iter().any(|(from, to)| from == "fvm" && to == "fvm-vm"), "the edges were not found: {edges:?}");
    assert_eq!(wrong(&edges), Vec::<String>::new());
}

#[test]
fn a_wrong_edge_is_named() {
    let metadata = serde_json::json!({"packages": [
        {"name": "fvm-vm", "dependencies": [
            {"name": "fvm-commit", "kind": null}, {"name": "fvm-model", "kind": null},
            {"name": "serde", "kind": null}, {"name": "fvm-review", "kind": "dev"}]},
        {"name": "fvm-commit", "dependencies": []},
        {"name": "fvm-new", "dependencies": [{"name": "fvm-model", "kind": null}]},
    ]});
    assert_eq!(wrong(&edges(&metadata)), ["fvm-vm → fvm-commit is not allowed"]);
}

/// (from, to), between crates that are ours, without dev-dependencies.
fn edges(metadata: &Value) -> Vec<(String, String)> {
    let packages = metadata["packages"].as_array().expect("packages");
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let mut edges = Vec::new();
    for package in packages {
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let to = text(&dependency["name"]);
            if (to == "fvm" || to.starts_with("fvm-")) && dependency["kind"] != "dev" {
                edges.push((text(&package["name"]), to));
            }
        }
    }
    edges
}

fn wrong(edges: &[(String, String)]) -> Vec<String> {
    let allowed = |from: &str| ALLOWED.iter().find(|(name, _)| *name == from).map(|(_, to)| *to);
    edges
        .iter()
        .filter(|(from, to)| allowed(from).is_some_and(|list| !list.contains(&to.as_str())))
        .map(|(from, to)| format!("{from} → {to} is not allowed"))
        .collect()
}
