//! Events as other tools want them: the Elastic Common Schema (ECS 8), one JSON object for each.
//!
//! Invariant: nothing is dropped: what ECS has no field for stands in `fvm`.

use fvm_model::event::{Event, Group, Kind, Phase};
use fvm_model::path::printable;
use serde_json::{Map, Value, json};
use std::os::unix::ffi::OsStrExt;

/// The object for `event`. `time`: `ts` as RFC 3339.
#[must_use]
pub fn event(event: &Event, time: &str) -> Value {
    let mut object = json!({
        "@timestamp": time,
        "ecs": { "version": "8.11.0" },
        "event": {
            "kind": if event.kind == Kind::Lost { "pipeline_error" } else { "event" },
            "category": [category(event.kind.group())],
            "type": [kind(event.kind)],
            "action": event.kind.name(),
            "sequence": event.seq,
            "outcome": if event.phase == Phase::Done { "success" } else { "unknown" },
            "provider": "fvm",
        },
        "host": { "id": event.vm, "type": "vm" },
        "fvm": event,
    });
    let Some(fields) = object.as_object_mut() else { return object };
    if event.tgid != 0 {
        fields.insert("process".into(), process(event));
        fields.insert("user".into(), json!({ "id": event.uid.to_string() }));
    }
    let text = |bytes: &fvm_model::path::Bytes| printable(bytes.0.as_bytes());
    if let (Group::File, Some(path)) = (event.kind.group(), &event.args.path) {
        let mut file = Map::new();
        file.insert("path".into(), json!(text(path)));
        if let Some(to) = &event.args.to {
            file.insert("target_path".into(), json!(text(to)));
        }
        if let Some(mode) = event.args.mode {
            file.insert("mode".into(), json!(format!("{mode:04o}")));
        }
        fields.insert("file".into(), Value::Object(file));
    }
    if let (Group::Network, Some(family)) = (event.kind.group(), &event.args.family) {
        let side = if matches!(event.kind, Kind::Bind | Kind::Listen) { "source" } else { "destination" };
        let address = event.args.address.as_ref().map(text);
        let mut place = Map::new();
        if let Some(address) = address {
            if family.starts_with("inet") {
                place.insert("ip".into(), json!(address));
            }
            place.insert("address".into(), json!(address));
        }
        if let Some(port) = event.args.port {
            place.insert("port".into(), json!(port));
        }
        fields.insert(side.into(), Value::Object(place));
        let kind = match family.as_str() {
            "inet" => "ipv4",
            "inet6" => "ipv6",
            other => other,
        };
        fields.insert("network".into(), json!({ "type": kind }));
    }
    object
}

fn process(event: &Event) -> Value {
    let text = |bytes: &fvm_model::path::Bytes| printable(bytes.0.as_bytes());
    let mut process = json!({
        "pid": event.tgid,
        "thread": { "id": event.tid },
        "entity_id": format!("{}-{}-{}", event.vm, event.tgid, event.start_ns),
        "executable": text(&event.exe),
        "name": text(&event.comm),
        "parent": { "pid": event.ppid },
        "session_leader": { "pid": event.sid },
    });
    if let Some(fields) = process.as_object_mut() {
        if !event.args.argv.is_empty() {
            fields.insert("args".into(), event.args.argv.iter().map(text).collect());
            fields.insert("args_count".into(), json!(event.args.argv.len()));
        }
        if let (Kind::Exit, Some(code)) = (event.kind, event.args.code) {
            fields.insert("exit_code".into(), json!(code));
        }
    }
    process
}

fn category(group: Group) -> &'static str {
    match group {
        Group::Log => "host",
        Group::Process | Group::Kernel => "process",
        Group::File => "file",
        Group::Network => "network",
    }
}

fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Exec | Kind::Fork | Kind::Start => "start",
        Kind::Exit | Kind::End => "end",
        Kind::Mkdir | Kind::Mknod | Kind::Symlink | Kind::Link => "creation",
        Kind::Unlink | Kind::Rmdir => "deletion",
        Kind::Connect | Kind::Send | Kind::Bind | Kind::Listen => "connection",
        Kind::Refused => "denied",
        Kind::Lost => "error",
        _ => "change",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::tests::event as whole;

    #[test]
    fn fields_are_where_other_tools_look_for_them() {
        let renamed = event(&whole(7), "2026-11-28T00:00:00.000000000Z");
        assert_eq!(renamed["file"]["path"], "/a\\nb\\xff");
        assert_eq!(renamed["file"]["target_path"], "/c");
        assert_eq!(renamed["process"]["pid"], 42);
        assert_eq!(renamed["process"]["parent"]["pid"], 7);
        assert_eq!(renamed["event"]["sequence"], 7);
        assert_eq!(renamed["fvm"]["args"]["path"]["hex"], "2f610a62ff");
        let connect = event(&Event { kind: Kind::Connect, ..whole(8) }, "");
        assert_eq!((&connect["destination"]["ip"], &connect["destination"]["port"]), (&json!("10.0.0.1"), &json!(443)));
        assert_eq!(connect["network"]["type"], "ipv4");
        assert!(connect.get("file").is_none());
    }
}
