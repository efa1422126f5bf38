use super::*;

fn read(name: &str, texts: &[&str]) -> Result<Unit, UnitError> {
    let fragments: Vec<_> = texts
        .iter()
        .enumerate()
        .map(|(n, text)| Fragment { file: format!("f{n}"), text: text.as_bytes().to_vec() })
        .collect();
    let facts = Facts { user: "root".into(), home: "/root".into(), ..Facts::default() };
    Unit::parse(&UnitName::typed(name).unwrap(), &fragments, &facts)
}

fn argv(unit: &Unit, phase: Phase) -> Vec<String> {
    let line =
        |c: &Command| c.argv.iter().map(|w| String::from_utf8_lossy(w).into_owned()).collect::<Vec<_>>().join("|");
    unit.service.of(phase).iter().map(line).collect()
}

#[test]
fn a_web_server_that_forks() {
    let unit = read(
        "web",
        &["# comment\n[Unit]\nDescription=A web server of %p\nDocumentation=man:web(8)\n\
           After=network-online.target nss-lookup.target\nWants=network-online.target\n\n\
           [Service]\nType=forking\nPIDFile=/run/web.pid\n\
           ExecStartPre=/usr/sbin/web -t -q -g 'daemon on; master_process on;'\n\
           ExecStart=/usr/sbin/web -g 'daemon on; master_process on;'\n\
           ExecReload=/usr/sbin/web -g 'daemon on; master_process on;' -s reload\n\
           ExecStop=-/sbin/start-stop-daemon --quiet --stop --retry QUIT/5 --pidfile /run/web.pid\n\
           TimeoutStopSec=5\nKillMode=mixed\n\n[Install]\nWantedBy=multi-user.target\n"],
    )
    .unwrap();
    assert_eq!(unit.description, "A web server of web");
    assert_eq!(unit.service.kind, ServiceType::Forking);
    assert_eq!(unit.service.pid_file.as_deref(), Some(&b"/run/web.pid"[..]));
    assert_eq!(argv(&unit, Phase::Start), ["/usr/sbin/web|-g|daemon on; master_process on;"]);
    assert!(unit.service.of(Phase::Stop)[0].may_fail);
    assert_eq!((unit.service.kill_mode, unit.service.stop_timeout), (KillMode::Mixed, Some(Duration::from_secs(5))));
    assert_eq!(unit.wants.iter().map(UnitName::as_str).collect::<Vec<_>>(), ["network-online.target"]);
    assert!(unit.ignored.is_empty(), "{:?}", unit.ignored);
}

#[test]
fn another_web_server_with_a_sandbox() {
    let unit = read(
        "httpd",
        &["[Unit]\nAfter=network.target remote-fs.target\n[Service]\nType=forking\nEnvironment=STARTED_BY_MANAGER=true\n\
           ExecStart=/usr/sbin/httpdctl start\nExecReload=/usr/sbin/httpdctl graceful\nKillMode=mixed\n\
           PrivateTmp=true\nRestart=on-abort\nOOMPolicy=continue\n"],
    )
    .unwrap();
    assert_eq!(unit.ignored_keys(), ["PrivateTmp", "OOMPolicy"]);
    assert_eq!(unit.ignored[0].at.to_string(), "f0:9");
    assert_eq!(unit.service.restart, Restart::OnAbort);
    assert_eq!(unit.service.environment[&b"STARTED_BY_MANAGER"[..]], b"true");
}

#[test]
fn a_database_as_an_instance_of_a_template() {
    let unit = read(
        "pg@15-main",
        &["[Unit]\nDescription=Cluster %i\nAssertPathExists=/etc/pg/%I/main.conf\nPartOf=pg.service\n\
           ReloadPropagatedFrom=pg.service\nBefore=pg.service\n[Service]\nType=forking\n\
           ExecStart=-/usr/bin/pgctl --skip %i start\nTimeoutStartSec=0\nExecStop=/usr/bin/pgctl --mode=fast %i stop\n\
           TimeoutStopSec=1h\nExecReload=/usr/bin/pgctl %i reload\nPIDFile=/run/pg/%i.pid\nSyslogIdentifier=pg@%i\n\
           OOMScoreAdjust=-900\nUser=pg\nSupplementaryGroups=ssl-cert adm\n"],
    )
    .unwrap();
    assert_eq!(unit.description, "Cluster 15-main");
    assert_eq!(unit.conditions[0].path, b"/etc/pg/15/main/main.conf");
    assert!(unit.conditions[0].assert);
    assert_eq!(unit.service.start_timeout, None);
    assert_eq!(unit.service.stop_timeout, Some(Duration::from_secs(3600)));
    assert_eq!(unit.service.pid_file.as_deref(), Some(&b"/run/pg/15-main.pid"[..]));
    assert_eq!((unit.service.oom_score, unit.service.user.as_deref()), (Some(-900), Some("pg")));
    assert_eq!(unit.service.groups, ["ssl-cert", "adm"]);
    assert_eq!(unit.ignored_keys(), ["ReloadPropagatedFrom"]);
}

#[test]
fn a_store_that_notifies_and_runs_as_its_own_user() {
    let unit = read(
        "store",
        &["[Service]\nType=notify\nExecStart=/usr/bin/store /etc/store.conf --supervised manager --daemonize no\n\
           PIDFile=/run/store/store.pid\nTimeoutStopSec=0\nRestart=always\nUser=store\nGroup=store\n\
           RuntimeDirectory=store\nRuntimeDirectoryMode=2755\nUMask=007\nPrivateTmp=true\nLimitNOFILE=65535\n\
           PrivateDevices=true\nProtectHome=true\nProtectSystem=strict\nReadWritePaths=-/var/lib/store\n\
           CapabilityBoundingSet=\nMemoryDenyWriteExecute=true\nNoNewPrivileges=true\n"],
    )
    .unwrap();
    let service = &unit.service;
    assert_eq!((service.kind, service.notify), (ServiceType::Notify, NotifyAccess::Main));
    assert_eq!(
        (service.directories[0].names.as_slice(), service.directories[0].mode),
        (&[b"store".to_vec()][..], 0o2755)
    );
    assert_eq!((service.umask, service.stop_timeout, service.restart), (0o007, None, Restart::Always));
    assert_eq!(service.limits, [Limit { resource: "NOFILE", soft: Some(65535), hard: Some(65535) }]);
    assert!(service.no_new_privileges);
    assert_eq!(
        unit.ignored_keys(),
        [
            "PrivateTmp",
            "PrivateDevices",
            "ProtectHome",
            "ProtectSystem",
            "ReadWritePaths",
            "CapabilityBoundingSet",
            "MemoryDenyWriteExecute"
        ]
    );
}

#[test]
fn a_login_server_and_a_clock_with_their_environment_files() {
    let unit = read(
        "sshd",
        &["[Unit]\nConditionPathExists=!/etc/sshd_not_to_be_run\n[Service]\nEnvironmentFile=-/etc/default/sshd\n\
           ExecStartPre=/usr/sbin/sshd -t\nExecStart=/usr/sbin/sshd -D $SSHD_OPTS\nExecReload=/usr/sbin/sshd -t\n\
           ExecReload=/bin/kill -HUP $MAINPID\nKillMode=process\nRestart=on-failure\nRestartPreventExitStatus=255\n\
           Type=notify\nRuntimeDirectory=sshd\nRuntimeDirectoryMode=0755\n"],
    )
    .unwrap();
    assert!(unit.conditions[0].negated && !unit.conditions[0].assert);
    assert_eq!(
        unit.service.environment_files,
        [EnvironmentFile { path: b"/etc/default/sshd".to_vec(), optional: true }]
    );
    assert_eq!(argv(&unit, Phase::Reload), ["/usr/sbin/sshd|-t", "/bin/kill|-HUP|$MAINPID"]);
    assert_eq!(unit.service.prevent.codes, [255]);
    let clock =
        read("clock", &["[Service]\nExecStart=/usr/sbin/clock -f $OPTS\nIgnoreSIGPIPE=false\nKillMode=process\n"]);
    assert_eq!(clock.unwrap().ignored_keys(), ["IgnoreSIGPIPE"]);
}

#[test]
fn a_drop_in_replaces_values_and_empties_lists() {
    let unit = read(
        "a",
        &[
            "[Unit]\nAfter=x.service\n[Service]\nExecStart=/bin/old\nEnvironment=A=1 \"B=two words\"\nUser=u\n",
            "[Unit]\nAfter=y.service\n[Service]\nExecStart=\nExecStart=/bin/new\nEnvironment=A=3\nUser=\nRestart=no\n",
        ],
    )
    .unwrap();
    assert_eq!(argv(&unit, Phase::Start), ["/bin/new"]);
    assert_eq!(unit.after.iter().map(UnitName::stem).collect::<Vec<_>>(), ["x", "y"]);
    assert_eq!(unit.service.user, None);
    let variables: Vec<_> = unit.service.environment.iter().map(|(k, v)| [k.as_slice(), v].concat()).collect();
    assert_eq!(variables, [b"A3".to_vec(), b"Btwo words".to_vec()]);
}

#[test]
fn a_fault_names_file_line_and_directive() {
    for (text, want) in [
        ("[Service]\nExecStart=/bin/a\nType=fork", "f0:3: Type=fork: it is not a type of service"),
        ("[Service]\nExecStart='/bin/a", "f0:2: ExecStart='/bin/a: a quote is not closed"),
        ("[Service]\nUMask=9", "f0:2: UMask=9: it is not an octal mode such as 0755"),
        ("[Service]\nStateDirectory=../etc", "f0:2: StateDirectory=../etc: it is not a relative path without '..'"),
        ("[Service]\nEnvironment=x", "f0:2: Environment=x: it is no NAME=value"),
        ("[Unit]\nAfter=a/b", "f0:2: After=a/b: 'a/b' is not a unit's name"),
        ("[Service]\nType=simple", "a.service: it has no ExecStart="),
        ("[Service]\nExecStart=/a\nExecStart=/b", "a.service: more than one ExecStart= needs Type=oneshot"),
        (
            "[Service]\nType=oneshot\nExecStart=/a\nRestart=always",
            "a.service: Restart= cannot be this with Type=oneshot",
        ),
        ("[Service]\nExecStart=/a\u{1b}[2J 'x", "f0:2: ExecStart=/a\\u{1b}[2J 'x: a quote is not closed"),
    ] {
        assert_eq!(read("a", &[text]).unwrap_err().to_string(), want);
    }
}

#[test]
fn what_is_switched_off_needs_no_notice() {
    let unit = read("a", &["[Service]\nExecStart=/a\nPrivateTmp=no\nProtectSystem=false\nProtectHome=yes\nX-Own=1\n"]);
    assert_eq!(unit.unwrap().ignored_keys(), ["ProtectHome"]);
}
