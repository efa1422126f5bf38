//! Events of a page, as the browser tells them, and what is made of them.

use super::*;

fn event(session: Option<&str>, method: &str, params: Value) -> Message {
    Message::Event(Event { session: session.map(str::to_owned), method: method.into(), params })
}

fn attached(session: &str, kind: &str) -> Message {
    let info = json!({"targetId": format!("T{session}"), "type": kind, "url": ""});
    event(None, "Target.attachedToTarget", json!({"sessionId": session, "targetInfo": info}))
}

fn navigated(url: &str) -> Message {
    event(Some("M"), "Page.frameNavigated", json!({"frame": {"id": "F", "url": url}}))
}

/// A page that is asked for.
fn watch() -> Watch {
    let mut watch = Watch::new("nonce");
    watch.see(&attached("M", "page"));
    let go = watch.go("http://a/");
    assert_eq!((go.session.as_deref(), go.method), (Some("M"), "Page.navigate"));
    watch.gone(&json!({"frameId": "F", "loaderId": "L"}));
    watch
}

fn methods(commands: &[Command]) -> Vec<&str> {
    commands.iter().map(|command| command.method).collect()
}

#[test]
fn a_page_has_loaded_when_its_own_load_event_came_and_it_is_not_about_to_leave() {
    let mut watch = watch();
    // Of the empty page that was there before.
    watch.see(&event(Some("M"), "Page.loadEventFired", json!({})));
    assert!(!watch.loaded);
    watch.see(&navigated("http://a/"));
    watch.see(&event(Some("W"), "Page.loadEventFired", json!({})));
    assert!(!watch.loaded);
    watch.see(&event(Some("M"), "Page.loadEventFired", json!({})));
    assert!(watch.is_settled());
    watch.see(&event(Some("M"), "Page.frameStartedLoading", json!({"frameId": "inner"})));
    assert!(watch.is_settled());
    watch.see(&event(Some("M"), "Page.frameStartedLoading", json!({"frameId": "F"})));
    assert!(watch.loaded && !watch.is_settled());
    watch.see(&navigated("http://b/"));
    watch.see(&event(Some("M"), "Page.loadEventFired", json!({})));
    assert!(watch.is_settled());
    assert_eq!(watch.way(), ("http://b/".into(), vec!["http://a/".into()]));
    assert_eq!((watch.fights.navigations, watch.stirs()), (1, 1));
}

#[test]
fn redirections_of_both_kinds_are_one_chain_and_an_endless_one_is_stopped_once() {
    let mut watch = watch();
    let sent = |url: &str| {
        let params = json!({"requestId": "1", "type": "Document", "frameId": "F", "request": {"url": url}});
        event(Some("M"), "Network.requestWillBeSent", params)
    };
    watch.see(&sent("http://a/"));
    watch.see(&sent("http://b/"));
    watch.see(&navigated("http://b/"));
    assert_eq!(watch.way(), ("http://b/".into(), vec!["http://a/".into()]));
    let mut stops = 0;
    for n in 0..1000 {
        stops += watch.see(&sent(&format!("http://a/{n}"))).len();
    }
    assert_eq!((watch.over, stops), (Some(Over::Redirects), 2));
    assert_eq!(watch.way().1.len(), REDIRECTS_MAX + 1);
}

#[test]
fn dialogs_are_answered_until_there_are_too_many_and_then_scripts_are_stopped() {
    let mut watch = watch();
    let opening = event(Some("M"), "Page.javascriptDialogOpening", json!({"type": "alert", "message": "hello"}));
    for _ in 1..DIALOGS_MAX {
        assert_eq!(methods(&watch.see(&opening)), ["Page.handleJavaScriptDialog"]);
    }
    assert_eq!((watch.over, watch.stirs()), (None, DIALOGS_MAX - 1));
    let stop = ["Runtime.terminateExecution", "Emulation.setScriptExecutionDisabled", "Page.handleJavaScriptDialog"];
    assert_eq!(methods(&watch.see(&opening)), stop);
    assert_eq!(watch.over, Some(Over::Dialogs));
    for _ in 0..CONSOLE_MAX {
        watch.see(&opening);
    }
    assert_eq!(watch.console.len(), DIALOGS_MAX as usize);
}

#[test]
fn windows_are_watched_and_beyond_a_few_closed_and_workers_are_counted() {
    let mut watch = watch();
    for n in 0..POPUPS_MAX {
        let commands = watch.see(&attached(&format!("W{n}"), "page"));
        assert_eq!(methods(&commands).last(), Some(&"Runtime.runIfWaitingForDebugger"));
    }
    let beyond = methods(&watch.see(&attached("X", "page"))).join(" ");
    assert_eq!(beyond, "Target.closeTarget Runtime.runIfWaitingForDebugger", "the page would wait with it for ever");
    let worker = watch.see(&attached("S", "service_worker"));
    assert_eq!(methods(&worker), ["Network.enable", "Runtime.enable", "Runtime.runIfWaitingForDebugger"]);
    for n in 0..1000 {
        // None stays where it is for ever.
        let commands = watch.see(&attached(&format!("I{n}"), "iframe"));
        assert_eq!(methods(&commands).last(), Some(&"Runtime.runIfWaitingForDebugger"));
    }
    assert_eq!((watch.fights.popups, watch.fights.workers), (POPUPS_MAX + 1, 1));
    assert!(watch.sessions.len() <= TARGETS_MAX as usize);
    assert_eq!(watch.page(), Some("M"));
}

#[test]
fn the_browsers_own_pages_are_not_the_page() {
    let mut watch = Watch::new("nonce");
    let info = json!({"targetId": "T", "type": "page", "url": "chrome://omnibox-popup.top-chrome/"});
    let own = event(None, "Target.attachedToTarget", json!({"sessionId": "own", "targetInfo": info}));
    assert_eq!(methods(&watch.see(&own)), ["Runtime.runIfWaitingForDebugger"]);
    watch.see(&attached("M", "page"));
    watch.see(&own);
    assert_eq!((watch.page(), watch.fights.popups), (Some("M"), 0));
}

#[test]
fn a_download_that_was_asked_for_ends_the_visit_and_one_that_was_not_does_not() {
    let begin = |guid: &str| {
        let params = json!({"guid": guid, "url": "http://a/x", "suggestedFilename": "../../x.sh"});
        event(None, "Browser.downloadWillBegin", params)
    };
    let progress = |guid: &str, bytes: f64, state: &str| {
        event(None, "Browser.downloadProgress", json!({"guid": guid, "receivedBytes": bytes, "state": state}))
    };
    let mut asked = watch();
    asked.see(&begin("1"));
    asked.gone(&json!({"errorText": "net::ERR_ABORTED"}));
    assert_eq!((asked.over, asked.failed.clone(), asked.is_fetching()), (Some(Over::Download), None, true));
    asked.see(&progress("1", 7.0, "completed"));
    assert_eq!((asked.is_fetching(), asked.fetched[0].download.automatic), (false, false));

    let mut watch = watch();
    watch.see(&navigated("http://a/"));
    watch.see(&begin("1"));
    assert!(watch.over.is_none() && watch.fetched[0].download.automatic);
    let too_many = (DOWNLOAD_MAX_BYTES + 1) as f64;
    assert_eq!(methods(&watch.see(&progress("1", too_many, "inProgress"))), ["Browser.cancelDownload"]);
    let cancelled: usize = (0..1000).map(|n| watch.see(&begin(&format!("x{n}"))).len()).sum();
    assert_eq!((watch.fetched.len(), cancelled), (DOWNLOADS_MAX, 2 * (1000 - DOWNLOADS_MAX + 1)));
}

#[test]
fn what_cannot_be_reached_says_why() {
    let mut watch = watch();
    watch.gone(&json!({"frameId": "F", "errorText": "net::ERR_NAME_NOT_RESOLVED"}));
    assert_eq!(watch.failed.as_deref(), Some("net::ERR_NAME_NOT_RESOLVED"));
}

#[test]
fn the_console_is_text_and_has_an_end() {
    let mut watch = watch();
    let args = json!([{"type": "string", "value": "a"}, {"type": "number", "value": 1}, {"type": "object", "description": "Array(2)"}]);
    watch.see(&event(Some("M"), "Runtime.consoleAPICalled", json!({"type": "log", "args": args})));
    let details = json!({"text": "Uncaught", "exception": {"description": "Error: x"}});
    watch.see(&event(Some("M"), "Runtime.exceptionThrown", json!({"exceptionDetails": details})));
    let entry = json!({"level": "error", "text": "404", "url": "http://a/x"});
    watch.see(&event(Some("M"), "Log.entryAdded", json!({"entry": entry})));
    assert_eq!(watch.console, ["log: a 1 Array(2)", "exception: Error: x", "error: 404 http://a/x"]);
    for _ in 0..CONSOLE_MAX {
        watch.see(&event(Some("M"), "Runtime.consoleAPICalled", json!({"type": "log", "args": "odd"})));
    }
    assert_eq!(
        (watch.console.len(), watch.cut.words()),
        (CONSOLE_MAX, vec!["lines of the console: 3 more".to_owned()])
    );
}

#[test]
fn a_crash_is_that_of_the_page_and_print_is_told_by_a_name_that_nobody_guesses() {
    let mut watch = watch();
    watch.see(&event(Some("other"), "Inspector.targetCrashed", json!({})));
    assert_eq!(watch.over, None);
    watch.see(&event(Some("M"), "Runtime.bindingCalled", json!({"name": "_guess", "payload": ""})));
    watch.see(&event(Some("M"), "Runtime.bindingCalled", json!({"name": "_nonce", "payload": ""})));
    assert_eq!(watch.fights.prints, 1);
    watch.see(&event(Some("M"), "Inspector.targetCrashed", json!({})));
    assert_eq!(watch.over, Some(Over::Crashed));
}
