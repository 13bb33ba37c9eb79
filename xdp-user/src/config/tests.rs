use proptest::prelude::*;

use super::*;

const MINIMAL: &str = "\
[[interface]]
name = \"eth0\"

[[service]]
address = \"192.0.2.10:443\"
";

fn errors(text: &str) -> String {
    Config::parse("levee.toml", text).unwrap_err().to_string()
}

#[test]
fn defaults_are_the_documented_ones() {
    let config = Config::parse("levee.toml", MINIMAL).unwrap();
    assert_eq!(config.secret_file, Path::new(SECRET_FILE));
    assert_eq!(config.control_socket, Path::new(CONTROL_SOCKET));
    let pins = "/sys/fs/bpf/levee/run-levee-levee%2Esock";
    assert_eq!(config.pin_dir.as_deref(), Some(Path::new(pins)));
    assert!(config.verify_syn_checksum);
    assert_eq!(config.metrics_listen, Some(METRICS_LISTEN.parse().unwrap()));
    assert_eq!(config.interfaces[0].attach, Attach::Auto);
    assert_eq!(config.services[0].name, "192.0.2.10:443");
}

#[test]
fn everything_can_be_set() {
    let config = Config::parse(
        "levee.toml",
        r#"
            secret_file = "/etc/levee/secret"
            control_socket = "/run/l.sock"
            pin_dir = "off"
            verify_syn_checksum = false
            metrics = { listen = "off" }
            interface = [{ name = "eth0", mode = "generic" }, { name = "eth1", mode = "native" }]
            [[service]]
            name = "web"
            address = "[2001:db8::1]:443"
            mode = "host"
            mss = 1220
            window_scale = 0
            window = 65535
        "#,
    )
    .unwrap();
    let expected = Config {
        secret_file: "/etc/levee/secret".into(),
        control_socket: "/run/l.sock".into(),
        pin_dir: None,
        verify_syn_checksum: false,
        metrics_listen: None,
        interfaces: vec![
            Interface {
                name: "eth0".into(),
                attach: Attach::Generic,
            },
            Interface {
                name: "eth1".into(),
                attach: Attach::Native,
            },
        ],
        proxy: ProxyGlobals::default(),
        splice: SpliceGlobals::default(),
        services: vec![Service {
            name: "web".into(),
            address: "[2001:db8::1]:443".parse().unwrap(),
            mss: Some(1220),
            window_scale: Some(0),
            window: Some(65535),
            mode: Mode::Host(HostOptions::default()),
        }],
    };
    assert_eq!(config, expected);
}

const EXAMPLE: &str = include_str!("../../../deploy/levee.example.toml");

#[test]
fn the_example_is_valid() {
    let config = Config::parse("levee.example.toml", EXAMPLE).unwrap();
    assert_eq!(config.services.len(), 4);
    assert!(config.services[2].proxy().is_some());
    assert!(config.services[3].splice().is_some());
}

#[test]
fn the_example_shows_the_defaults() {
    let is_key = |line: &str| line.starts_with(|c: char| c.is_ascii_lowercase());
    let lines = EXAMPLE.lines().map(|line| match line.strip_prefix('#') {
        Some(shown) if is_key(shown) => shown,
        _ => line,
    });
    let shown: String = lines.map(|line| format!("{line}\n")).collect();
    assert!(shown.len() + 40 < EXAMPLE.len(), "{shown}");
    assert_eq!(
        Config::parse("shown", &shown).unwrap(),
        Config::parse("levee.example.toml", EXAMPLE).unwrap()
    );
}

/// Line to append to [`MINIMAL`] or text to replace it with, and the error.
#[test]
fn errors_name_file_line_key_found_and_allowed() {
    let cases = [
        (
            "prt = 1",
            "levee.toml:6: service: unknown field `prt`, expected one of `name`, `address`, `mode`, `mss`, \
             `window_scale`, `window`, `reap_close_wait`, `balance`, `connect_timeout`, \
             `retries`, `first_byte_timeout`, `idle_timeout`, `close_wait_timeout`, \
             `fin_wait_timeout`, `header_timeout`, `last_ack_timeout`, `time_wait_timeout`, \
             `half_open_max`, `connections_max`, \
             `connections_per_client_max`, `connections_per_prefix_max`, \
             `new_connections_per_client`, `new_connections_burst`, `send_proxy`, `accept_proxy`, \
             `accept_proxy_required`, `transparent`, `source`, `client_keepalive`, \
             `backend_keepalive`, `slow_start`, `nat`, `nat_pool`, `check`, `ejection`, `backend`",
        ),
        (
            "mss = 1",
            "levee.toml:6: service.mss: found 1, allowed: a whole number from 536 to 65495",
        ),
        (
            "mss = \"a\"",
            "levee.toml:6: service.mss: found \"a\", allowed: a whole number from 536 to 65495",
        ),
        (
            "window_scale = 15",
            "levee.toml:6: service.window_scale: found 15, allowed: a whole number from 0 to 14",
        ),
        (
            "window = 65536",
            "levee.toml:6: service.window: found 65536, allowed: a whole number from 2048 to 65535",
        ),
        (
            "mode = \"nat\"",
            "levee.toml:6: service.mode: found \"nat\", allowed: \"host\", for a server on this \
             machine, or, for servers elsewhere, \"proxy\" or \"splice\"",
        ),
        (
            "name = 5",
            "levee.toml:6: service.name: found 5, allowed: a string, in quotes",
        ),
        (
            "name = \"a b\"",
            "levee.toml:6: service.name: found \"a b\", allowed: 1 to 64 printable ASCII \
             characters without space, quote and backslash",
        ),
        (
            "[metrics]\nlisten = \"9977\"",
            "levee.toml:7: metrics.listen: found \"9977\", allowed: \"off\", or ADDRESS:PORT to \
             listen on, such as \"127.0.0.1:9977\"",
        ),
        (
            "[[interface]]\nname = \"eth0\"",
            "levee.toml:7: interface.name: found \"eth0\" a second time (first on line 2), \
             allowed: each value once",
        ),
        (
            "[[interface]]\nname = \"eth 1\"",
            "levee.toml:7: interface.name: found \"eth 1\", allowed: an interface name as `ip \
             link` shows it, 1 to 15 bytes, such as \"eth0\"",
        ),
        (
            "[[interface]]\nname = \"eth1\"\nmode = \"fast\"",
            "levee.toml:8: interface.mode: found \"fast\", allowed: \"auto\", \"native\" or \
             \"generic\"",
        ),
        (
            "[[interface]]\nmode = \"auto\"",
            "levee.toml:6: interface.name: found nothing, allowed: an interface name, such as \
             \"eth0\"",
        ),
        (
            "[[service]]\nname = \"x\"",
            "levee.toml:6: service.address: found nothing, allowed: ADDRESS:PORT, such as \
             \"192.0.2.10:443\"",
        ),
        (
            "[[service]]\naddress = \"192.0.2.10:443\"",
            "levee.toml:7: service.address: found \"192.0.2.10:443\" a second time (first on line \
             5), allowed: each value once",
        ),
        (
            "[[service]]\naddress = \"192.0.2.10:80\"\nname = \"192.0.2.10:443\"",
            "levee.toml:7: service.name: found \"192.0.2.10:443\" a second time (first on line \
             5), allowed: each value once",
        ),
    ];
    for (added, expected) in cases {
        assert_eq!(errors(&format!("{MINIMAL}{added}\n")), expected, "{added}");
    }
}

#[test]
fn errors_at_the_top_of_the_file() {
    let cases = [
        (
            "secret_file = \"secret\"",
            "levee.toml:1: secret_file: found \"secret\", allowed: the absolute path of a file",
        ),
        (
            "verify_syn_checksum = \"yes\"",
            "levee.toml:1: verify_syn_checksum: found \"yes\", allowed: true or false",
        ),
        (
            "control_socket = 1979-05-27",
            "levee.toml:1: control_socket: found 1979-05-27, allowed: a string, in quotes",
        ),
    ];
    for (added, expected) in cases {
        assert_eq!(errors(&format!("{added}\n{MINIMAL}")), expected, "{added}");
    }
    assert!(errors("[[service]\n").starts_with("levee.toml:1: "));
}

#[test]
fn a_file_of_another_form_is_explained() {
    let cases = [
        (
            "interface = 5",
            "1: interface: invalid type: integer `5`, expected sections in double brackets, \
             [[interface]], [[service]] or [[service.backend]]",
        ),
        (
            "[service]\naddress = \"192.0.2.1:80\"",
            "1: service: invalid type: map, expected sections in double brackets, [[interface]], \
             [[service]] or [[service.backend]]",
        ),
        (
            "service = [1]",
            "1: service: invalid type: integer `1`, expected a section, [[service]]",
        ),
        (
            "metrics = 5",
            "1: metrics: invalid type: integer `5`, expected a section, [metrics]",
        ),
        (
            "[metrics]\nport = 1",
            "2: metrics: unknown field `port`, expected `listen`",
        ),
        (
            "verify_syn_checksum = true\nverify_syn_checksum = true",
            "2: duplicate key: \"verify_syn_checksum\"",
        ),
        (
            "secret_file = \"abc",
            "1: invalid basic string, expected `\"`",
        ),
        (
            r#""\u001b[31m" = 1"#,
            "1: unknown field `\\u{1b}[31m`, expected one of `secret_file`, `control_socket`, \
             `pin_dir`, `verify_syn_checksum`, `metrics`, `proxy`, `splice`, `interface`, \
             `service`",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(errors(text), format!("levee.toml:{expected}"));
    }
}

#[test]
fn what_is_quoted_is_short_and_harmless() {
    let text = |address: &str| format!("[[service]]\naddress = \"{address}\"\n");
    let error = errors(&text("\\u001b[2J\\n"));
    assert!(error.contains(r#"found "\u{1b}[2J\n", allowed"#), "{error}");
    let error = errors(&text(&"A".repeat(1 << 20)));
    assert!(
        error.contains("AAA\"... (1048576 bytes), allowed"),
        "{error}"
    );
    assert!(error.len() < 1000, "{}", error.len());
    let error = errors(&format!("\"{}\" = 1", "A".repeat(1 << 20)));
    assert!(error.len() < 2000, "{}", error.len());
}

#[test]
fn only_the_first_of_many_problems_are_printed() {
    let text = "[[service]]\naddress = \"x\"\n".repeat(100_000);
    let error = errors(&text);
    assert_eq!(error.lines().count(), 101);
    assert!(
        error.ends_with("levee.toml: 99901 more problem(s)"),
        "{error}"
    );
}

#[test]
fn paths_that_cannot_be_used_are_refused() {
    let long = format!("/{}", "s".repeat(107));
    for (line, allowed) in [
        ("secret_file = \"/a\\u0000\"", "the absolute path of a file"),
        ("secret_file = \"/a/\"", "the absolute path of a file"),
        ("control_socket = \"\"", "the absolute path of a file"),
        (
            &format!("control_socket = \"{long}\""),
            "a path of at most 107 bytes",
        ),
        ("pin_dir = \"levee\"", "\"off\", or the absolute path"),
        ("pin_dir = \"/sys/fs/bpf/a.b\"", "without dots"),
        ("[[interface]]\nname = \"a\\u001b\"", "an interface name"),
    ] {
        let error = errors(line);
        assert!(error.contains(allowed), "{error}");
    }
    assert!(field::socket_path(&long[..107]).is_ok());
}

#[test]
fn what_is_no_configuration_file_is_refused_without_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    let error = |path: &Path| format!("{:#}", Config::read(path).unwrap_err());
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).unwrap();
    assert!(error(&path).ends_with("found a pipe, allowed: a regular file"));
    assert!(error(dir.path()).ends_with("found a directory, allowed: a regular file"));
    assert!(error(Path::new("/dev/zero")).ends_with("found a device, allowed: a regular file"));
    std::fs::remove_file(&path).unwrap();
    let large = std::fs::File::create(&path).unwrap();
    large.set_len(1 << 40).unwrap();
    assert!(error(&path).contains("allowed: at most 8388608"));
    std::fs::write(&path, b"# one\n# \xff\n").unwrap();
    assert!(error(&path).ends_with("file:2: found the byte 0xff, allowed: text in UTF-8"));
}

#[test]
fn every_problem_is_reported_in_the_order_of_the_file() {
    let text =
        "verify_syn_checksum = 1\n[[interface]]\nname = \"\"\n[[service]]\naddress = \"x\"\n";
    let error = Config::parse("f", text).unwrap_err();
    let lines: Vec<_> = error.problems.iter().map(|p| p.line).collect();
    assert_eq!(lines, [Some(1), Some(3), Some(5)]);
}

#[test]
fn that_there_is_none_is_said_where_none_was_refused() {
    let text = Config::parse("f", "").unwrap_err().to_string();
    assert!(text.contains("f: service.address: found 0 services, allowed: 1 to 4096"));
    assert!(text.contains("f: interface.name: found 0 interfaces, allowed: 1 to 64"));
}

#[test]
fn addresses_nobody_can_be_served_at_are_refused() {
    let cases = [
        ("0.0.0.0:80", "an unspecified address"),
        ("[::]:80", "an unspecified address"),
        ("224.0.0.1:80", "a multicast address"),
        ("[ff02::1]:80", "a multicast address"),
        ("255.255.255.255:80", "the broadcast address"),
        ("127.0.0.1:80", "a loopback address"),
        ("[::1]:80", "a loopback address"),
        (
            "[::ffff:192.0.2.1]:80",
            "an IPv4-mapped address; write it as IPv4",
        ),
        ("[fe80::1%2]:80", "an address with a zone"),
        ("192.0.2.1:0", "port 0"),
        ("192.0.2.1", "\"192.0.2.1\", allowed: ADDRESS:PORT"),
        (
            "2001:db8::1:80",
            "\"2001:db8::1:80\", allowed: ADDRESS:PORT",
        ),
        ("192.0.2.1:65536", "\"192.0.2.1:65536\", allowed"),
        ("example.org:80", "\"example.org:80\", allowed"),
    ];
    for (text, part) in cases {
        let error = field::service_address(text).unwrap_err();
        assert!(error.contains(part), "{text}: {error}");
    }
}

#[test]
fn the_command_line_is_judged_by_the_same_rules() {
    let flags = Flags {
        interfaces: vec!["eth0".into(), "eth0".into()],
        protect: vec!["192.0.2.1:80".into(), "192.0.2.1".into()],
        metrics: Some("nowhere".into()),
        secret_file: Some("".into()),
        control_socket: Some("/tmp/..".into()),
        pin_dir: Some("/a.b".into()),
    };
    let text = flags.into_config().unwrap_err().to_string();
    for part in [
        "command line: --iface: found \"eth0\" a second time, allowed: each value once",
        "command line: --protect: found \"192.0.2.1\", allowed: ADDRESS:PORT of the service",
        "command line: --metrics: found \"nowhere\", allowed: \"off\"",
        "command line: --secret-file: found \"\", allowed: the absolute path of a file",
        "command line: --control-socket: found \"/tmp/..\", allowed: the absolute path of a file",
        "command line: --pin-dir: found \"/a.b\", allowed: \"off\", or the absolute path",
    ] {
        assert!(text.contains(part), "{text}");
    }
    let flags = Flags {
        interfaces: vec!["eth0".into()],
        protect: vec!["192.0.2.1:80".into(), "[2001:db8::1]:80".into()],
        metrics: Some("off".into()),
        secret_file: Some("/tmp/secret".into()),
        control_socket: Some("levee.sock".into()),
        pin_dir: Some("off".into()),
    };
    let config = flags.into_config().unwrap();
    assert_eq!(config.pin_dir, None);
    assert_eq!(config.services[1].name, "[2001:db8::1]:80");
    assert_eq!(config.metrics_listen, None);
    assert_eq!(config.secret_file, Path::new("/tmp/secret"));
    let here = std::env::current_dir().unwrap();
    assert_eq!(config.control_socket, here.join("levee.sock"));
}

#[test]
fn more_services_than_the_table_holds_are_refused() {
    let service = |n: usize| {
        format!(
            "[[service]]\naddress = \"10.0.{}.{}:80\"\n",
            n >> 8,
            n & 255
        )
    };
    let text = |count: usize| {
        let services: String = (0..count).map(service).collect();
        format!("[[interface]]\nname = \"eth0\"\n{services}")
    };
    assert_eq!(
        Config::parse("f", &text(SERVICES_MAX))
            .unwrap()
            .services
            .len(),
        SERVICES_MAX
    );
    assert!(errors(&text(SERVICES_MAX + 1)).contains("found 4097 services, allowed: 1 to 4096"));
}

proptest! {
    /// Whatever is in the file: a configuration, or errors with lines that the file has.
    #[test]
    fn any_text_is_judged(
        text in r#"(\[\[?(service(\.(backend|check))?|interface|metrics|proxy|splice)\]\]?|(name|address|mode|mss|listen|source|status|idle_timeout|nat|nat_pool|x) ?= ?("([a-z0-9.:]{0,9}|proxy|splice)"|[0-9]{1,5}|true|\["?[0-9]?"?\])|.{0,5}|\n){0,30}"#,
    ) {
        if let Err(error) = Config::parse("f", &text) {
            prop_assert!(!error.problems.is_empty());
            let lines = text.split('\n').count();
            for problem in error.problems {
                prop_assert!(problem.line.is_none_or(|line| (1..=lines).contains(&line)));
            }
        }
    }
}
