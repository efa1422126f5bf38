//! Which attacks there are, by row of the IPC table; their programs are `attacks/<dir>/<name>.c`.

use crate::stage::Place;

/// A row of the IPC table.
#[derive(Debug)]
pub struct Row {
    /// Directory of its programs.
    pub dir: &'static str,
    /// For people.
    pub title: &'static str,
    /// Whether it is tried between two VMs as well: nothing in it goes by process ids, which would hit one's own.
    pub between: bool,
    /// What is tried.
    pub attacks: &'static [Attack],
}

/// One attack.
#[derive(Debug)]
pub struct Attack {
    /// Its program, without `.c`.
    pub name: &'static str,
    /// With which network its VM is made.
    pub net: Net,
    /// How it is shown to work outside.
    pub control: Control,
    /// How it is started.
    pub start: Start,
    places: &'static [Place],
}

/// The network of an attack's VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Net {
    /// The default.
    Host,
    /// `--net none`: with the default the VM shares what is attacked, until VMs have networks of their own.
    None,
}

/// How an attack is shown to work outside a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// Run as root.
    Plain,
    /// Run as the ordinary user.
    AsUser,
    /// Run by root's `unshare` with these flags, where it does no harm.
    InNamespaces(&'static str),
    /// Not run, and why.
    ByConstruction(&'static str),
}

/// How an attack is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// One after the other.
    Plain,
    /// With this file of the laboratory's as standard input, passed by the host.
    WithInput(&'static str),
    /// While the host's user runs a program in the VM that the attack has replaced.
    WhileWeRunItsProgram,
}

impl Attack {
    /// Whether it is tried there.
    #[must_use]
    pub fn is_for(&self, place: Place) -> bool {
        self.places.contains(&place)
    }

    /// Whether its control is not run.
    #[must_use]
    pub fn is_by_construction(&self) -> bool {
        matches!(self.control, Control::ByConstruction(_))
    }

    /// Why its control is not run.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        if let Control::ByConstruction(why) = self.control { why } else { "" }
    }

    const fn alone(mut self) -> Self {
        self.net = Net::None;
        self
    }

    const fn in_namespaces(mut self, flags: &'static str) -> Self {
        self.control = Control::InNamespaces(flags);
        self
    }

    const fn by_user(mut self) -> Self {
        self.control = Control::AsUser;
        self
    }

    const fn with_input(mut self, file: &'static str) -> Self {
        self.start = Start::WithInput(file);
        self
    }

    const fn lured(mut self) -> Self {
        self.start = Start::WhileWeRunItsProgram;
        self
    }

    const fn only_in(mut self, places: &'static [Place]) -> Self {
        self.places = places;
        self
    }

    const fn by_construction(mut self, why: &'static str) -> Self {
        self.control = Control::ByConstruction(why);
        self
    }
}

const fn it(name: &'static str) -> Attack {
    Attack { name, net: Net::Host, control: Control::Plain, start: Start::Plain, places: &Place::ALL }
}

/// A first process of its own, with its `/proc`.
const OWN_PROC: &str = "--pid --fork --mount-proc";

/// All of them.
pub const ROWS: &[Row] = &[
    Row {
        dir: "path_sockets",
        title: "FIFOs and path sockets",
        between: true,
        attacks: &[
            it("stream"),
            it("dgram"),
            it("seqpacket"),
            it("in_tmp"),
            it("in_run"),
            it("x11"),
            it("on_read_only_mount"),
            it("fifo_on_read_only_mount"),
            it("fifo_write"),
            it("fifo_read"),
            it("by_hard_link"),
            it("by_rename"),
            it("by_descriptor"),
            it("by_bind_mount"),
            it("by_root_of_init").in_namespaces(OWN_PROC),
        ],
    },
    Row {
        dir: "abstract_sockets",
        title: "abstract sockets",
        between: true,
        attacks: &[
            it("stream").alone(),
            it("dgram").alone(),
            it("seqpacket").alone(),
            it("x11").alone(),
            it("listed").alone(),
            it("name_taken").alone(),
        ],
    },
    Row {
        dir: "posix_ipc",
        title: "POSIX shared memory and semaphores",
        between: true,
        attacks: &[it("shm_read"), it("shm_write"), it("shm_unlink"), it("sem_post"), it("listing")],
    },
    Row {
        dir: "sysv_ipc",
        title: "System V IPC",
        between: true,
        attacks: &[
            it("shm_by_key"),
            it("shm_by_id"),
            it("shm_remove"),
            it("shm_enumerate"),
            it("msg_receive"),
            it("msg_send"),
            it("sem_raise"),
            it("listing"),
        ],
    },
    Row {
        dir: "posix_mq",
        title: "POSIX message queues",
        between: true,
        attacks: &[it("receive"), it("send"), it("unlink"), it("listing")],
    },
    Row {
        dir: "file_locks",
        title: "file locks",
        between: true,
        attacks: &[
            it("flock"),
            it("flock_blocks_host"),
            it("flock_on_read_only_mount"),
            it("record"),
            it("open_file_description"),
            it("lease"),
            it("listing"),
        ],
    },
    Row {
        dir: "shared_memory_maps",
        title: "shared mmap",
        between: true,
        attacks: &[it("write_file"), it("make_writable"), it("futex_wake"), it("memory_file_of_host")],
    },
    Row {
        dir: "signals",
        title: "signals",
        between: false,
        attacks: &[
            it("kill"),
            it("kill_group"),
            it("queue"),
            it("thread"),
            it("by_pidfd"),
            it("as_owner"),
            it("keeper"),
        ],
    },
    Row {
        dir: "ptrace",
        title: "ptrace and process_vm",
        between: false,
        attacks: &[
            it("attach"),
            it("seize"),
            it("vm_read"),
            it("vm_write"),
            it("proc_mem"),
            it("take_descriptor"),
            it("advise_memory"),
            it("compare"),
            it("count_events"),
            it("init").in_namespaces(OWN_PROC),
            it("init_memory").in_namespaces(OWN_PROC),
            it("init_descriptor").in_namespaces(OWN_PROC),
        ],
    },
    Row {
        dir: "proc",
        title: "/proc of others",
        between: false,
        attacks: &[
            it("entry"),
            it("command_lines"),
            it("environment"),
            it("descriptor"),
            it("root"),
            it("working_directory"),
            it("init_fd").in_namespaces(OWN_PROC),
            it("init_maps").in_namespaces(OWN_PROC),
            it("init_environ").in_namespaces(OWN_PROC),
            it("init_root").in_namespaces(OWN_PROC),
            it("init_cwd").in_namespaces(OWN_PROC),
            it("new_mount"),
            it("enter_namespace"),
            it("enter_namespaces_of_process"),
            it("owner_namespace"),
            it("next_mount_namespace"),
            it("list_mounts"),
        ],
    },
    Row {
        dir: "netlink",
        title: "netlink",
        between: false,
        attacks: &[
            it("interfaces").alone(),
            it("sockets").alone(),
            it("device_events").alone(),
            it("audit").alone(),
            it("audit_message").alone(),
            it("process_statistics").alone(),
            it("packets").alone(),
        ],
    },
    Row {
        dir: "vsock",
        title: "vsock",
        between: true,
        attacks: &[it("connect").alone().only_in(&Place::WITH_HOST), it("port_taken").alone()],
    },
    Row {
        dir: "keyrings",
        title: "keyrings",
        between: true,
        attacks: &[
            it("read"),
            it("describe"),
            it("update"),
            it("revoke"),
            it("search_user"),
            it("user_session"),
            it("request"),
            it("listing"),
            it("by_32_bit_call"),
        ],
    },
    Row {
        dir: "loopback",
        title: "loopback sockets",
        between: true,
        attacks: &[
            it("tcp").alone(),
            it("tcp6").alone(),
            it("tcp_by_address").alone(),
            it("udp").alone(),
            it("listing").alone(),
            it("port_taken").alone(),
        ],
    },
    Row {
        dir: "notify",
        title: "inotify and fanotify",
        between: true,
        attacks: &[
            it("inotify_file"),
            it("inotify_directory"),
            it("inotify_on_read_only_mount"),
            it("dnotify"),
            it("fanotify_file"),
            it("fanotify_permission"),
        ],
    },
    Row {
        dir: "io_uring",
        title: "io_uring",
        between: false,
        attacks: &[it("setup"), it("kernel_thread"), it("by_32_bit_call")],
    },
    Row {
        dir: "userfaultfd",
        title: "userfaultfd",
        between: false,
        attacks: &[it("full"), it("user_mode"), it("device")],
    },
    Row {
        dir: "terminals",
        title: "terminals",
        between: false,
        attacks: &[
            it("write"),
            it("type"),
            it("new_mount"),
            it("type_into_own"),
            it("type_with_high_bits"),
            it("console"),
            it("virtual_console"),
            it("screen"),
        ],
    },
    Row {
        dir: "inherited",
        title: "environment and inherited descriptors",
        between: false,
        attacks: &[
            it("descriptors"),
            it("environment").by_construction("nothing outside is told of them"),
            it("directory").with_input("input"),
            it("directory_write").with_input("input"),
            it("reopen_for_writing").with_input("input-file"),
            it("change_mode").with_input("input-file"),
        ],
    },
    Row {
        dir: "processes",
        title: "processes by number",
        between: false,
        attacks: &[
            it("existence"),
            it("priority"),
            it("affinity"),
            it("scheduler"),
            it("limits"),
            it("io_priority"),
            it("move_memory"),
            it("robust_list"),
            it("share_core"),
            it("real_time"),
            it("before_others"),
            it("raise_limit"),
        ],
    },
    Row {
        dir: "dbus",
        title: "D-Bus",
        between: true,
        attacks: &[it("session"), it("session_in_tmp"), it("in_home"), it("system"), it("abstract").alone()],
    },
    Row {
        dir: "files",
        title: "files: hidden, state, out of layers",
        between: false,
        attacks: &[
            it("write"),
            it("truncate"),
            it("remove"),
            it("rename"),
            it("mode"),
            it("times"),
            it("link"),
            it("attribute"),
            it("flags"),
            it("reopen"),
            it("symlink_exchange"),
            it("overlay_marks"),
            it("state_listing"),
            it("state_write"),
            it("layers"),
        ],
    },
    Row {
        dir: "devices",
        title: "devices",
        between: false,
        attacks: &[
            it("memory"),
            it("ports"),
            it("kernel_log"),
            it("virtual_machines"),
            it("loop_devices"),
            it("tunnels"),
            it("fuse"),
            it("clock"),
            it("vsock"),
            it("input"),
            it("nvram"),
            it("latency"),
            it("hardware_random"),
            it("sound"),
            it("graphics"),
            it("disk"),
            it("disk_by_number"),
            it("memory_by_number"),
            it("node_in_own_mount"),
            it("shared_node_mode"),
            it("shared_node_times"),
        ],
    },
    Row {
        dir: "kernel",
        title: "kernel changes",
        between: false,
        attacks: &[
            it("core_pattern"),
            it("core_pattern_by_new_mount"),
            it("core_pattern_by_namespaces").in_namespaces("--mount"),
            it("core_pattern_by_remount").in_namespaces("--mount"),
            it("core_pattern_by_unmount").in_namespaces("--mount"),
            it("modprobe_path"),
            it("poweroff_path"),
            it("hotplug_path"),
            it("uevent_helper"),
            it("sysrq"),
            it("sysrq_setting"),
            it("panic"),
            it("randomisation"),
            it("drop_caches"),
            it("overcommit"),
            it("protected_links"),
            it("interrupts"),
            it("binary_formats"),
            it("huge_pages"),
            it("power_state"),
            it("keyring_limits"),
            it("sys_by_new_mount"),
            it("sys_by_remount").in_namespaces("--mount"),
            it("sys_by_attributes").in_namespaces("--mount"),
            it("init_module"),
            it("finit_module"),
            it("delete_module"),
            it("kexec_load"),
            it("kexec_file_load"),
            it("bpf_map"),
            it("bpf_program"),
            it("bpf_list"),
            it("bpf_by_32_bit_call"),
            it("call_with_x32_bit"),
            it("perf_machine"),
            it("adjtimex"),
            it("clock_adjtime"),
            it("swapon"),
            it("swapoff"),
            it("acct"),
            it("reboot"),
            it("log"),
            it("iopl"),
            it("ioperm"),
            it("mount_debugfs"),
            it("mount_tracefs"),
            it("mount_securityfs"),
            it("mount_devtmpfs"),
            it("mount_pstore"),
            it("mount_configfs"),
            it("mount_ext4"),
            it("mount_xfs"),
            it("mount_btrfs"),
            it("mount_squashfs"),
            it("mount_erofs"),
            it("cgroup1"),
            it("cgroup2"),
            it("release_agent"),
            it("device_group"),
        ],
    },
    Row {
        dir: "mounts",
        title: "mounts",
        between: false,
        attacks: &[
            it("unmount_cover").in_namespaces("--mount"),
            it("unmount_cover_in_namespaces"),
            it("move_cover").in_namespaces("--mount"),
            it("bind_parent").in_namespaces("--mount"),
            it("clone_parent"),
            it("overlay_parent"),
            it("chroot_escape"),
            it("above_root"),
            it("unmount_root"),
            it("open_by_handle"),
            it("handle_in_namespaces"),
            it("propagation"),
            it("write_on_read_only_mount"),
            it("id_map_of_own"),
            it("setuid_program").by_user().only_in(&[Place::Outside, Place::Rootless]),
        ],
    },
    Row {
        dir: "visibility",
        title: "visibility",
        between: false,
        attacks: &[
            it("namespace_mnt"),
            it("namespace_pid"),
            it("namespace_ipc"),
            it("namespace_uts"),
            it("namespace_cgroup"),
            it("namespace_user"),
            it("namespace_net").alone(),
            it("mount_table").by_construction("only a VM has such mounts"),
            it("control_groups"),
            it("control_group_tree"),
            it("interfaces_in_sys").alone(),
            it("kernel_memory"),
            it("kernel_addresses"),
            it("page_counts"),
            it("kernel_log"),
            it("timers"),
            it("slabs"),
            it("kernel_maps"),
            it("scheduler"),
        ],
    },
    Row {
        dir: "tamper",
        title: "tamper",
        between: false,
        attacks: &[
            it("control_socket"),
            it("runtime_directory"),
            it("record"),
            it("lock"),
            it("init_program").in_namespaces(OWN_PROC),
            it("init_by_host_number"),
            it("keeper_memory"),
            it("newborn_program").lured(),
            it("newborn_memory").lured(),
            it("newborn_traced").lured(),
            it("exe_overwrite").lured(),
        ],
    },
];
