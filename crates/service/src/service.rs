//! What `[Service]` says, as a value.

use crate::command::{Command, Environment};
use crate::restart::{Restart, StartLimit, Statuses};
use std::time::Duration;

/// `Type=`: when a service counts as started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ServiceType {
    /// As soon as its program is executed (`simple`, `exec`, `idle`; `dbus` too, whose name is not waited for).
    #[default]
    Exec,
    /// When its first process has ended and left a daemon.
    Forking,
    /// When it says `READY=1` (`notify`, `notify-reload`).
    Notify,
    /// When its programs have ended.
    Oneshot,
}

/// `KillMode=`: whom a stop ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KillMode {
    /// Every process of the service.
    #[default]
    ControlGroup,
    /// The main process by signal, what is left of the others by SIGKILL.
    Mixed,
    /// The main process only.
    Process,
    /// Nobody.
    None,
}

/// `NotifyAccess=`: whose notifications count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NotifyAccess {
    /// Nobody's.
    #[default]
    None,
    /// The main process's.
    Main,
    /// Any process's of the service.
    All,
}

/// Where output goes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Stream {
    /// The service's log.
    #[default]
    Log,
    /// Nowhere.
    Null,
    /// As the standard output.
    Inherit,
    /// A file.
    File {
        /// Which.
        path: Vec<u8>,
        /// How it is opened.
        how: Open,
    },
}

/// How a file of [`Stream::File`] is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Open {
    /// Written from its beginning (`file:`).
    Keep,
    /// Written at its end (`append:`).
    Append,
    /// Emptied first (`truncate:`).
    Truncate,
}

/// A working directory.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WorkingDirectory {
    /// The directory; `None`: the user's home (`~`).
    pub path: Option<Vec<u8>>,
    /// It may be missing.
    pub optional: bool,
}

/// `RuntimeDirectory=` and its relatives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directories {
    /// Relative to `base`, without `..`.
    pub names: Vec<Vec<u8>>,
    /// `RuntimeDirectoryMode=`, ...
    pub mode: u32,
}

impl Default for Directories {
    fn default() -> Self {
        Self { names: Vec::new(), mode: 0o755 }
    }
}

/// The kinds of [`Directories`], in the order of [`Service::directories`]: directive, base, variable.
pub const DIRECTORY_KINDS: [(&str, &str, &str); 5] = [
    ("RuntimeDirectory", "/run", "RUNTIME_DIRECTORY"),
    ("StateDirectory", "/var/lib", "STATE_DIRECTORY"),
    ("CacheDirectory", "/var/cache", "CACHE_DIRECTORY"),
    ("LogsDirectory", "/var/log", "LOGS_DIRECTORY"),
    ("ConfigurationDirectory", "/etc", "CONFIGURATION_DIRECTORY"),
];

/// `EnvironmentFile=`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvironmentFile {
    /// Which.
    pub path: Vec<u8>,
    /// It may be missing (`-`).
    pub optional: bool,
}

/// A limit, as `setrlimit(2)` numbers it on Linux.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// The directive's name without `Limit`.
    pub resource: &'static str,
    /// `None`: none.
    pub soft: Option<u64>,
    /// `None`: none.
    pub hard: Option<u64>,
}

/// The lines of commands, in the order of [`Service::commands`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// `ExecCondition=`.
    Condition,
    /// `ExecStartPre=`.
    StartPre,
    /// `ExecStart=`.
    Start,
    /// `ExecStartPost=`.
    StartPost,
    /// `ExecReload=`.
    Reload,
    /// `ExecStop=`.
    Stop,
    /// `ExecStopPost=`.
    StopPost,
}

impl Phase {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Condition, Self::StartPre, Self::Start, Self::StartPost, Self::Reload, Self::Stop, Self::StopPost];

    /// The directive.
    #[must_use]
    pub fn directive(self) -> &'static str {
        match self {
            Self::Condition => "ExecCondition",
            Self::StartPre => "ExecStartPre",
            Self::Start => "ExecStart",
            Self::StartPost => "ExecStartPost",
            Self::Reload => "ExecReload",
            Self::Stop => "ExecStop",
            Self::StopPost => "ExecStopPost",
        }
    }
}

/// A service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// `Type=`.
    pub kind: ServiceType,
    /// `RemainAfterExit=`.
    pub remain: bool,
    /// `PIDFile=`, absolute.
    pub pid_file: Option<Vec<u8>>,
    /// `GuessMainPID=`.
    pub guess_main: bool,
    /// By [`Phase`].
    pub commands: [Vec<Command>; 7],
    /// `User=`.
    pub user: Option<String>,
    /// `Group=`.
    pub group: Option<String>,
    /// `SupplementaryGroups=`.
    pub groups: Vec<String>,
    /// `WorkingDirectory=`.
    pub cwd: Option<WorkingDirectory>,
    /// `Environment=`.
    pub environment: Environment,
    /// `EnvironmentFile=`, in order.
    pub environment_files: Vec<EnvironmentFile>,
    /// `UnsetEnvironment=`.
    pub unset: Vec<Vec<u8>>,
    /// By [`DIRECTORY_KINDS`].
    pub directories: [Directories; 5],
    /// `RuntimeDirectoryPreserve=`.
    pub preserve_runtime: bool,
    /// `UMask=`.
    pub umask: u32,
    /// `Limit…=`.
    pub limits: Vec<Limit>,
    /// `Nice=`.
    pub nice: Option<i32>,
    /// `OOMScoreAdjust=`.
    pub oom_score: Option<i32>,
    /// `NoNewPrivileges=`.
    pub no_new_privileges: bool,
    /// `StandardOutput=`.
    pub output: Stream,
    /// `StandardError=`.
    pub error: Stream,
    /// `KillMode=`.
    pub kill_mode: KillMode,
    /// `KillSignal=`.
    pub kill_signal: i32,
    /// `FinalKillSignal=`.
    pub final_signal: i32,
    /// `SendSIGKILL=`.
    pub send_kill: bool,
    /// `SendSIGHUP=`.
    pub send_hup: bool,
    /// `ReloadSignal=`, of `notify-reload`.
    pub reload_signal: Option<i32>,
    /// `NotifyAccess=`.
    pub notify: NotifyAccess,
    /// `TimeoutStartSec=`; `None`: for ever.
    pub start_timeout: Option<Duration>,
    /// `TimeoutStopSec=`; `None`: for ever.
    pub stop_timeout: Option<Duration>,
    /// `Restart=`.
    pub restart: Restart,
    /// `RestartSec=`.
    pub restart_delay: Duration,
    /// `SuccessExitStatus=`.
    pub success: Statuses,
    /// `RestartPreventExitStatus=`.
    pub prevent: Statuses,
    /// `RestartForceExitStatus=`.
    pub force: Statuses,
    /// `StartLimitIntervalSec=`, `StartLimitBurst=`.
    pub start_limit: StartLimit,
}

/// systemd's own defaults.
const TIMEOUT: Duration = Duration::from_secs(90);

impl Default for Service {
    fn default() -> Self {
        Self {
            kind: ServiceType::Exec,
            remain: false,
            pid_file: None,
            guess_main: true,
            commands: Default::default(),
            user: None,
            group: None,
            groups: Vec::new(),
            cwd: None,
            environment: Environment::new(),
            environment_files: Vec::new(),
            unset: Vec::new(),
            directories: Default::default(),
            preserve_runtime: false,
            umask: 0o022,
            limits: Vec::new(),
            nice: None,
            oom_score: None,
            no_new_privileges: false,
            output: Stream::Log,
            error: Stream::Inherit,
            kill_mode: KillMode::ControlGroup,
            kill_signal: 15,
            final_signal: 9,
            send_kill: true,
            send_hup: false,
            reload_signal: None,
            notify: NotifyAccess::None,
            start_timeout: Some(TIMEOUT),
            stop_timeout: Some(TIMEOUT),
            restart: Restart::No,
            restart_delay: Duration::from_millis(100),
            success: Statuses::default(),
            prevent: Statuses::default(),
            force: Statuses::default(),
            start_limit: StartLimit::default(),
        }
    }
}

impl Service {
    /// The commands of a phase.
    #[must_use]
    pub fn of(&self, phase: Phase) -> &[Command] {
        &self.commands[phase as usize]
    }

    /// Whether it can be reloaded.
    #[must_use]
    pub fn reloads(&self) -> bool {
        self.reload_signal.is_some() || !self.of(Phase::Reload).is_empty()
    }
}
