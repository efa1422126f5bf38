//! Where things are, by options and environment.

use super::Failure;
use fvm_webtest::args::Global;
use fvm_webtest::baseline::Learnt;
use fvm_webtest::db::{self, Queue};
use fvm_webtest::store::{self, S3Options, Store};
use std::path::{Path, PathBuf};

fn variable(key: &str) -> Option<String> {
    std::env::var(key).ok().filter(|value| !value.is_empty())
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Where database and results are, if nobody says.
fn data() -> Result<PathBuf, Failure> {
    if is_root() {
        return Ok("/var/lib/fvm-webtest".into());
    }
    let home = |key: &str| variable(key).map(PathBuf::from).filter(|path| path.is_absolute());
    home("XDG_DATA_HOME")
        .or_else(|| home("HOME").map(|home| home.join(".local/share")))
        .map(|dir| dir.join("fvm-webtest"))
        .ok_or_else(|| {
            Failure::new("cannot tell where the database is: HOME is not set", "set HOME, or give --db and --store")
        })
}

/// The database's place.
pub fn db_place(global: &Global) -> Result<String, Failure> {
    match global.db.clone().or_else(|| variable("FVM_WEBTEST_DB")) {
        Some(place) => Ok(place),
        None => Ok(data()?.join("urls.db").display().to_string()),
    }
}

/// The store's place.
pub fn store_place(global: &Global) -> Result<String, Failure> {
    match global.store.clone().or_else(|| variable("FVM_WEBTEST_STORE")) {
        Some(place) => Ok(place),
        None => Ok(data()?.join("results").display().to_string()),
    }
}

/// The database. Only what makes something makes its place.
pub fn db(global: &Global, make: bool) -> Result<Box<dyn Queue>, Failure> {
    let place = db_place(global)?;
    if !place.starts_with("postgres") {
        let path = Path::new(&place);
        if !make && !path.exists() {
            return Err(Failure::new(
                format!("there is no database {place}"),
                "'fvm webtest import FILE' makes one; --db names another",
            ));
        }
        if make
            && let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty())
            && let Err(e) = std::fs::create_dir_all(dir)
        {
            return Err(Failure::new(format!("cannot make {}: {e}", dir.display()), "name another place with --db"));
        }
    }
    Ok(db::open(&place)?)
}

/// The store.
pub fn store(global: &Global) -> Result<Box<dyn Store>, Failure> {
    Ok(store::open(&store_place(global)?, &s3_options())?)
}

/// As the tools of Amazon read them.
fn s3_options() -> S3Options {
    S3Options {
        endpoint: variable("AWS_ENDPOINT_URL_S3").or_else(|| variable("AWS_ENDPOINT_URL")),
        region: variable("AWS_REGION").or_else(|| variable("AWS_DEFAULT_REGION")),
        key: variable("AWS_ACCESS_KEY_ID"),
        secret: variable("AWS_SECRET_ACCESS_KEY"),
        token: variable("AWS_SESSION_TOKEN"),
    }
}

/// Where fvm keeps VMs, as fvm itself says (crates/cli): state and run-time directories.
pub fn fvm_dirs(global: &Global) -> Result<(PathBuf, PathBuf), Failure> {
    let given = global.home.clone().or_else(|| variable("FVM_HOME").map(PathBuf::from));
    let state = match given {
        Some(dir) => std::path::absolute(&dir)
            .map_err(|e| Failure::new(format!("cannot use '{}': {e}", dir.display()), "give another --home"))?,
        None if is_root() => "/var/lib/fvm".into(),
        None => data()?.with_file_name("fvm"),
    };
    let runtime = if is_root() { Some("/run".into()) } else { variable("XDG_RUNTIME_DIR").map(PathBuf::from) };
    let usable = |dir: &PathBuf| {
        dir.is_absolute() && rustix::fs::access(dir, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK).is_ok()
    };
    let run = runtime.filter(usable).map_or_else(|| state.join("run"), |dir| dir.join("fvm"));
    Ok((state, run))
}

/// Where policies are looked for, the user's own first.
pub fn policy_dirs() -> Vec<PathBuf> {
    let config = variable("XDG_CONFIG_HOME").or_else(|| variable("HOME").map(|home| format!("{home}/.config")));
    let own = config.map(PathBuf::from).filter(|dir| dir.is_absolute());
    own.map(|dir| dir.join("fvm")).into_iter().chain(["/etc/fvm".into()]).map(|dir| dir.join("policies")).collect()
}

/// The file of baselines that were learnt.
pub fn baseline_file() -> Result<PathBuf, Failure> {
    Ok(data()?.join("baseline.json"))
}

/// Baselines that were learnt; none if there is no file.
pub fn baselines() -> Result<Vec<Learnt>, Failure> {
    let path = baseline_file()?;
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Failure::new(format!("cannot read {}: {e}", path.display()), "mend or remove it")),
    };
    serde_json::from_slice(&bytes)
        .map_err(|e| Failure::new(format!("{} holds no baselines: {e}", path.display()), "mend or remove it"))
}

/// Writes them, whole or not at all.
pub fn keep_baselines(all: &[Learnt]) -> Result<(), Failure> {
    let path = baseline_file()?;
    let failed = |e: std::io::Error| {
        Failure::new(format!("cannot write {}: {e}", path.display()), "make room, or look at its permissions")
    };
    let text = serde_json::to_vec_pretty(all).map_err(|e| failed(e.into()))?;
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(failed)?;
    }
    let unready = path.with_extension(format!("json.{}", std::process::id()));
    std::fs::write(&unready, text).and_then(|()| std::fs::rename(&unready, &path)).map_err(failed)
}
