//! Visits of the laboratory's sites, each in a VM of its own: what is seen, what is said of it, that it ends, that nothing is left.
//!
//! A harness of its own: [`fvm::Fvm::start_forker`] is called while there is one thread.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "test code: a failure is a failure of the test")]

mod lab;

use fvm_webtest::model::{Params, Task, Tier};
use fvm_webtest::store::{Store, StoreError};
use fvm_webtest::visit::{Visitor, VmVisitor};
use lab::gate::{LabGate, Sites};
use lab::http::{self, Answer};
use std::collections::BTreeMap;
use std::net::TcpStream;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

#[derive(Default)]
struct Memory(Mutex<BTreeMap<String, Vec<u8>>>);

impl Store for Memory {
    fn put(&self, bytes: &[u8]) -> Result<String, StoreError> {
        use sha2::Digest;
        let name: String = sha2::Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
        self.0.lock().unwrap().insert(name.clone(), bytes.to_vec());
        Ok(name)
    }
    fn get(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.0.lock().unwrap().get(name).cloned())
    }
}

struct One;
impl Sites for One {
    fn answer(&self, client: TcpStream) {
        let asked = http::read(&client);
        eprintln!("{asked:?}");
        let _ = Answer::html("<title>Hello</title><p>Hi<script>document.body.append('x'); console.log('said', 1)</script>").send(&client);
    }
}

fn main() {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let fvm = fvm::Fvm::open(&dir.path().join("home"), &dir.path().join("run")).unwrap();
    fvm.start_forker().unwrap();
    let fvm = Arc::new(fvm);
    let params = Params { wait_s: std::env::args().nth(1).map_or(0, |a| a.parse().unwrap()), ..Params::default() };
    let tier = if std::env::args().nth(2).is_some() { Tier::Full } else { Tier::Shell };
    let visitor = VmVisitor::new(Arc::clone(&fvm), Arc::new(LabGate(Arc::new(One))), params, &[], &[], VmVisitor::browsers(tier).unwrap()).unwrap();
    let store = Memory::default();
    for n in 0..3 {
        let task = Task { run: 1, site: n, url: "http://one.test/".parse().unwrap(), attempt: 1, lease: String::new(), tier };
        let seen = visitor.visit(&task, &store, &AtomicBool::new(false));
        println!("{}", serde_json::to_string_pretty(&seen).unwrap());
        for name in [&seen.artifacts.dom, &seen.artifacts.last] {
            if let Some(name) = name {
                let bytes = store.get(name).unwrap().unwrap();
                println!("{} bytes: {}", bytes.len(), String::from_utf8_lossy(&bytes[..bytes.len().min(300)]));
            }
        }
    }
}
