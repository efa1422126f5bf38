//! A request's method and parameters as a command line: the one definition of commands and options ([`crate::args`]) is that of
//! the protocol, too.
//!
//! ```text
//!   "commit", {"name":"demo","dry_run":true,"only":["*.c"]}  ─►  fvm commit --dry-run --only=*.c -- demo
//!   "service.start", {"name":"demo","units":["nginx"]}       ─►  fvm service start -- demo nginx
//! ```
//!
//! Invariants: a parameter is never taken for an option, nor one argument for another; what the command line would not know is
//! refused here; nothing is looked up, opened or run.

use crate::args::Cli;
use clap::{Arg, ArgAction, Command, CommandFactory};
use fvm::model::path::Bytes;
use serde_json::{Map, Value};
use std::ffi::OsString;

/// What is for people at terminals, or no command on VMs.
const NOT_SERVED: &[&str] = &["shell", "top", "completions", "serve", "open", "guard", "webtest"];
/// The same, of parameters.
const NOT_TAKEN: &[(&str, &str)] = &[("commit", "interactive")];

/// The methods that are commands, in order.
pub fn methods() -> Vec<String> {
    let cli = Cli::command();
    let served = |command: &&Command| !NOT_SERVED.contains(&command.get_name());
    let names = |command: &Command| {
        let name = command.get_name();
        let below: Vec<_> = command.get_subcommands().map(|sub| format!("{name}.{}", sub.get_name())).collect();
        if below.is_empty() { vec![name.to_owned()] } else { below }
    };
    cli.get_subcommands().filter(served).flat_map(names).collect()
}

/// The command line that does `method` with `params`.
///
/// # Errors
/// In words, what there is not.
pub fn command_line(method: &str, params: &Map<String, Value>) -> Result<Vec<OsString>, String> {
    let mut command = Cli::command();
    let mut line: Vec<OsString> = vec!["fvm".into()];
    let unknown = || format!("there is no method '{}'; 'hello' names those there are", shown(method));
    for name in method.split('.') {
        let found = command.get_subcommands().find(|sub| sub.get_name() == name).cloned();
        command = found.filter(|_| !NOT_SERVED.contains(&method)).ok_or_else(unknown)?;
        line.push(name.into());
    }
    if command.has_subcommands() {
        return Err(unknown());
    }
    let is_taken = |name: &str| !NOT_TAKEN.contains(&(method, name));
    let known = |name: &str| command.get_arguments().find(|arg| arg.get_id() == name && is_taken(name));
    let mut positional: Vec<(&str, Vec<OsString>)> =
        command.get_positionals().map(|arg| (id(arg), Vec::new())).collect();
    for (name, value) in params.iter().filter(|(_, value)| !value.is_null()) {
        let arg = known(name).ok_or_else(|| format!("'{method}' takes no parameter '{}'", shown(name)))?;
        if let Some((_, given)) = positional.iter_mut().find(|(position, _)| position == name) {
            *given = values(arg, value)?;
            continue;
        }
        let option = format!("--{}", arg.get_long().ok_or_else(|| format!("'{name}' cannot be given"))?);
        match (arg.get_action(), value) {
            (ArgAction::SetTrue, Value::Bool(true)) => line.push(option.into()),
            (ArgAction::SetTrue, Value::Bool(false)) => {}
            (ArgAction::SetTrue, _) => return Err(format!("'{name}' is true or false")),
            _ => line.extend(values(arg, value)?.into_iter().map(|value| {
                let mut word = OsString::from(format!("{option}="));
                word.push(value);
                word
            })),
        }
    }
    // Nothing after this is an option.
    line.push("--".into());
    let last = positional.iter().rposition(|(_, given)| !given.is_empty());
    for (n, (name, given)) in positional.into_iter().enumerate() {
        if given.is_empty() && last.is_some_and(|last| n < last) {
            return Err(format!("'{name}' is missing"));
        }
        line.extend(given);
    }
    Ok(line)
}

fn id(arg: &Arg) -> &str {
    arg.get_id().as_str()
}

/// One value, or as many as the argument takes.
fn values(arg: &Arg, value: &Value) -> Result<Vec<OsString>, String> {
    let takes_many = matches!(arg.get_action(), ArgAction::Append);
    match value {
        Value::Array(many) if takes_many => many.iter().map(|value| word(arg, value)).collect(),
        Value::Array(_) => Err(format!("'{}' is one value", id(arg))),
        one => Ok(vec![word(arg, one)?]),
    }
}

fn word(arg: &Arg, value: &Value) -> Result<OsString, String> {
    let not = || format!("'{}' is not a text, a number, or {{\"hex\": \"…\"}}", id(arg));
    match value {
        Value::String(text) => Ok(text.into()),
        Value::Number(number) => Ok(number.to_string().into()),
        Value::Object(_) => serde_json::from_value::<Bytes>(value.clone()).map(|bytes| bytes.0).map_err(|_| not()),
        Value::Null | Value::Bool(_) | Value::Array(_) => Err(not()),
    }
}

/// A client's text in a message.
fn shown(text: &str) -> String {
    fvm::model::path::printable(text.chars().take(60).collect::<String>().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn line(method: &str, params: Value) -> Result<String, String> {
        let Value::Object(params) = params else { panic!("parameters are an object") };
        let words = command_line(method, &params)?;
        Ok(words.iter().map(|w| w.to_str().unwrap()).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn parameters_become_options_and_arguments_and_no_other() {
        let good = [
            ("list", json!({}), "fvm list --"),
            (
                "commit",
                json!({"name": "demo", "dry_run": true, "keep": false, "only": ["*.c", "-x"]}),
                "fvm commit --dry-run --only=*.c --only=-x -- demo",
            ),
            (
                "commit",
                json!({"name": "-rf", "paths": ["--keep", "b"], "on_conflict": "skip"}),
                "fvm commit --on-conflict=skip -- -rf --keep b",
            ),
            ("undo", json!({"commit": 7}), "fvm undo -- 7"),
            (
                "run",
                json!({"command": ["sh", "-c", "exit 7"], "rm": true, "memory": "1G", "env": "A=b"}),
                "fvm run --env=A=b --memory=1G --rm -- sh -c exit 7",
            ),
            ("service.start", json!({"name": "a", "units": ["b"]}), "fvm service start -- a b"),
            ("delete", json!({"names": ["a", {"hex": "62"}], "force": null}), "fvm delete -- a b"),
        ];
        for (method, params, expected) in good {
            let found = line(method, params).unwrap();
            let (mut found, mut expected): (Vec<_>, Vec<_>) =
                (found.split(' ').collect(), expected.split(' ').collect());
            let at = found.iter().position(|w| *w == "--").unwrap();
            found[1..at].sort_unstable();
            let at = expected.iter().position(|w| *w == "--").unwrap();
            expected[1..at].sort_unstable();
            assert_eq!(found, expected);
        }
        let bad = [
            ("shell", json!({}), "no method"),
            ("serve", json!({}), "no method"),
            ("service", json!({}), "no method"),
            ("service.", json!({}), "no method"),
            ("", json!({}), "no method"),
            ("ls", json!({}), "no method"),
            ("commit.x", json!({"name": "a"}), "no method"),
            ("commit", json!({"name": "a", "interactive": true}), "no parameter 'interactive'"),
            ("list", json!({"home": "/tmp"}), "no parameter 'home'"),
            ("list", json!({"json": true}), "no parameter 'json'"),
            ("status", json!({"paths": ["a"]}), "'name' is missing"),
            ("status", json!({"name": ["a"]}), "one value"),
            ("delete", json!({"names": [["a"]]}), "not a text"),
            ("commit", json!({"name": "a", "dry_run": "yes"}), "true or false"),
            ("commit", json!({"name": true}), "not a text"),
            ("commit", json!({"name": {"hex": "6"}}), "not a text"),
        ];
        for (method, params, why) in bad {
            let refused = line(method, params).unwrap_err();
            assert!(refused.contains(why), "{method}: {refused}");
        }
    }

    #[test]
    fn every_command_is_served_or_is_known_not_to_be() {
        let methods = methods();
        for name in ["run", "exec", "commit", "service.logs", "policy.show", "doctor"] {
            assert!(methods.iter().any(|m| m == name), "{name} of {methods:?}");
        }
        for method in &methods {
            // Whatever is amiss is in the parameters, not in the method.
            let refused = command_line(method, &Map::new());
            assert!(refused.is_ok(), "{method}: {refused:?}");
        }
        let commands = Cli::command();
        for name in NOT_SERVED {
            assert!(commands.find_subcommand(name).is_some(), "{name} is no command");
        }
        for (method, name) in NOT_TAKEN {
            let command = commands.find_subcommand(method).unwrap();
            assert!(command.get_arguments().any(|arg| arg.get_id() == name), "{method} has no {name}");
        }
    }
}
