//! What levee refuses to start with, on a real kernel: each with exit code 1, words for the
//! operator, and nothing left behind.

use std::{fs, net::TcpListener, os::unix::fs::PermissionsExt as _, process::Command};

use crate::common::{Lab, METRICS, levee, link, refusal};

#[test]
fn an_unknown_interface() {
    let lab = Lab::new();
    let text = refusal(&mut lab.run_flags("--iface nope"));
    assert!(
        text.contains("there is no interface \"nope\"; there are: lo, lv1, lv0"),
        "{text}"
    );
    assert!(link("lv0").xdp.is_empty());
}

#[test]
fn an_interface_that_is_taken() {
    let lab = Lab::new();
    let running = lab.start(&mut lab.run_flags(""));
    let other = Lab::beside(&lab);
    let text = refusal(&mut other.run_flags("--metrics off"));
    let id = link("lv0").xdp[0];
    let expected = format!("attached to lv0 already: \"levee_xdp\" (id {id})");
    assert!(text.contains(&expected), "{text}");
    assert!(running.status().active, "the first one is not disturbed");
}

#[test]
fn a_control_socket_that_is_taken() {
    let lab = Lab::new();
    let running = lab.start(&mut lab.run_flags("--metrics off"));
    let mut second = levee("run --iface lv1 --protect 192.0.2.1:80 --metrics off --pin-dir off");
    second.arg("--secret-file").arg(lab.path("secret"));
    second.arg("--control-socket").arg(lab.path("levee.sock"));
    let text = refusal(&mut second);
    assert!(
        text.contains("another levee is running with the control socket"),
        "{text}"
    );
    assert!(running.status().active, "the first one is not disturbed");
}

#[test]
fn a_secret_that_others_can_read() {
    let lab = Lab::new();
    let secret = lab.path("secret");
    fs::write(&secret, "00".repeat(32)).unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o644)).unwrap();
    let text = refusal(&mut lab.run_flags(""));
    assert!(text.contains("its mode is 0644, allowed is 0600"), "{text}");
}

#[test]
fn a_secret_of_another_user() {
    let lab = Lab::new();
    let secret = lab.path("secret");
    fs::write(&secret, "00".repeat(32)).unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    std::os::unix::fs::chown(&secret, Some(12345), None).unwrap();
    let text = refusal(&mut lab.run_flags(""));
    assert!(text.contains("belongs to user 12345"), "{text}");
}

#[test]
fn a_metrics_port_that_is_taken() {
    let lab = Lab::new();
    let _other = TcpListener::bind(METRICS).unwrap();
    let text = refusal(&mut lab.run_flags(""));
    let expected = format!("cannot serve metrics at {METRICS}: another program listens there");
    assert!(text.contains(&expected), "{text}");
    assert!(link("lv0").xdp.is_empty());
    assert!(!lab.path("levee.sock").exists());
}

#[test]
fn a_process_without_capabilities() {
    let lab = Lab::new();
    let run = lab.run_flags("");
    let mut stripped = Command::new("setpriv");
    stripped
        .arg("--bounding-set=-all")
        .arg(run.get_program())
        .args(run.get_args());
    let text = refusal(&mut stripped);
    assert!(
        text.contains("missing capabilities CAP_NET_ADMIN, CAP_BPF, CAP_PERFMON"),
        "{text}"
    );
}

#[test]
fn fewer_capabilities_than_roots_suffice() {
    let lab = Lab::new();
    let run = lab.run_flags("");
    let mut stripped = Command::new("setpriv");
    stripped
        .arg("--bounding-set=-all,+net_admin,+bpf,+perfmon")
        .arg(run.get_program())
        .args(run.get_args());
    assert!(lab.start(&mut stripped).status().active);
}

#[test]
fn a_bad_configuration() {
    let lab = Lab::new();
    let config = lab.write_config("[[service]]\naddress = \"192.0.2.1\"\n");
    for mut command in [lab.run_config(&config), levee("check --config")] {
        if command.get_args().next() == Some("check".as_ref()) {
            command.arg(&config);
        }
        let text = refusal(&mut command);
        let name = config.display();
        let expected = format!("{name}:4: service.address: found \"192.0.2.1\", allowed: ADDRESS:");
        assert!(text.contains(&expected), "{text}");
        let expected = format!("{name}: interface.name: found 0 interfaces, allowed: 1 to 64");
        assert!(text.contains(&expected), "{text}");
    }
    let text = refusal(levee("check --config").arg(lab.path("none.toml")));
    assert!(
        text.contains("cannot read the configuration file"),
        "{text}"
    );
}

#[test]
fn a_check_tells_what_does_not_go_with_this_machine() {
    let lab = Lab::new();
    let config = lab.write_config(
        "[[interface]]\nname = \"lv0\"\n[[interface]]\nname = \"eth9\"\n\
         [[service]]\naddress = \"192.0.2.1:80\"\n[[service]]\naddress = \"192.0.2.9:80\"\n",
    );
    let output = levee("check --config").arg(&config).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let notes: Vec<_> = text
        .lines()
        .filter(|line| line.starts_with("note: "))
        .collect();
    let expected = [
        "note: on this machine, there is no interface \"eth9\"",
        "note: on this machine, these service addresses are not assigned: 192.0.2.9",
    ];
    assert_eq!(notes, expected, "{text}");
}

/// What `levee check` says, too, without refusing the file: it may be for another machine.
#[test]
#[ignore = "needs a kernel older than 6.6: `cargo xtask guest-test` boots one"]
fn a_kernel_that_is_too_old() {
    let lab = Lab::new();
    let text = refusal(&mut lab.run_flags(""));
    println!("{text}");
    let lacks = "is too old to protect a server that runs on it: it lacks tcx links for TC \
                 programs (Linux 6.6) and bpf_sk_assign_tcp_reqsk (Linux 6.9";
    assert!(text.contains(lacks), "{text}");
    assert!(link("lv0").xdp.is_empty());
    assert!(!lab.path("levee.sock").exists());
    let config = lab
        .write_config("[[interface]]\nname = \"lv0\"\n[[service]]\naddress = \"192.0.2.1:80\"\n");
    let output = levee("check --config").arg(&config).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    println!("{text}");
    assert!(
        text.contains("note: on this machine, this kernel"),
        "{text}"
    );
    assert!(text.contains(lacks), "{text}");
}

#[test]
fn a_status_of_nothing() {
    let lab = Lab::new();
    let text = refusal(levee("status --socket").arg(lab.path("levee.sock")));
    assert!(text.contains("is levee running?"), "{text}");
}
