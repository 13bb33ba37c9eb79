//! levee on a real kernel: what it does while it runs, and how it ends.

use std::{fs, os::unix::fs::PermissionsExt as _, process::Stdio};

use crate::{
    common::{Lab, MultipathListener, eventually, get, ip, levee, link, metric, refusal},
    promtool,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

#[test]
fn attaches_serves_and_detaches() {
    let lab = Lab::new();
    let config = lab.write_config(
        "[[interface]]\nname = \"lv0\"\nmode = \"native\"\n\
         [[service]]\naddress = \"192.0.2.1:80\"\n",
    );
    let running = lab.start(&mut lab.run_config(&config));
    assert_eq!(link("lv0").xdp.len(), 1);
    assert!(link("lv1").xdp.is_empty());
    let secret = fs::metadata(lab.path("secret")).unwrap();
    assert_eq!(secret.permissions().mode() & 0o777, 0o600);

    assert_eq!(
        get("/-/healthy"),
        ("HTTP/1.1 200 OK".into(), "levee is healthy\n".into())
    );
    assert_eq!(
        get("/-/ready"),
        ("HTTP/1.1 200 OK".into(), "levee is ready\n".into())
    );
    assert_eq!(get("/nothing").0, "HTTP/1.1 404 Not Found");
    assert_eq!(
        metric("levee_xdp_mode{interface=\"lv0\",mode=\"native\"}"),
        Some(1.0)
    );
    assert_eq!(
        metric("levee_protection_active{service=\"192.0.2.1:80\"}"),
        Some(1.0)
    );
    assert_eq!(metric("levee_config_last_reload_successful"), Some(1.0));
    let status = running.status();
    assert!(status.active);
    assert_eq!(
        Some(status.key_epoch as f64),
        metric("levee_cookie_key_epoch")
    );
    assert_eq!(status.interfaces[0].mode, "native");

    assert_eq!(running.end(Signal::SIGTERM).code(), Some(0));
    assert!(link("lv0").xdp.is_empty());
    assert!(!lab.path("levee.sock").exists());
}

#[test]
fn promtool_accepts_the_metrics() {
    let lab = Lab::new();
    let _running = lab.start(&mut lab.run_flags(""));
    promtool::check(&get("/metrics").1);
}

#[test]
fn nothing_stays_attached_when_it_is_stopped() {
    let lab = Lab::new();
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let running = lab.start(&mut lab.run_flags("--metrics off"));
        assert_eq!(link("lv0").xdp.len(), 1);
        assert!(running.end(signal).success());
        assert!(link("lv0").xdp.is_empty());
    }
}

#[test]
fn the_counters_count() {
    let lab = Lab::new();
    let running = lab.start(&mut lab.run_flags(""));
    let passed = || running.status().interfaces[0].packets.pass;
    let before = passed();
    eventually("packets are counted", || {
        // The peer announces itself over IPv6 whenever it comes up.
        ip("link set lv1 down");
        ip("link set lv1 up");
        passed() > before
    });
}

#[test]
fn a_driver_without_xdp_gets_the_generic_mode_and_a_warning() {
    let lab = Lab::new();
    ip("link add br0 type bridge");
    ip("link set br0 up");
    let config = |mode| {
        lab.write_config(&format!(
            "[[interface]]\nname = \"br0\"\nmode = \"{mode}\"\n\
             [[service]]\naddress = \"192.0.2.1:80\"\n"
        ))
    };
    let running = lab.start(&mut lab.run_config(&config("auto")));
    assert!(running.log().contains("WARN"), "{}", running.log());
    assert!(
        running.log().contains("br0: the driver cannot run XDP"),
        "{}",
        running.log()
    );
    assert_eq!(
        metric("levee_xdp_mode{interface=\"br0\",mode=\"generic\"}"),
        Some(1.0)
    );
    running.end(Signal::SIGTERM);
    let text = refusal(&mut lab.run_config(&config("native")));
    assert!(
        text.contains("cannot attach the XDP program to br0 in native mode"),
        "{text}"
    );
    assert!(text.contains("its driver does not support that"), "{text}");
    let running = lab.start(&mut lab.run_config(&config("generic")));
    assert!(
        !running.log().contains("the driver cannot"),
        "{}",
        running.log()
    );
}

/// In the driver, a veth delivers what is answered only to a peer with an XDP program.
#[test]
fn a_veth_is_native_when_its_other_end_can_take_the_answers() {
    let lab = Lab::new();
    let mut command = lab.run_flags("--metrics off");
    let running = lab.start(&mut command);
    assert_eq!(running.status().interfaces[0].mode, "generic");
    let expected = "lv0: the other end of this veth pair has no XDP program";
    assert!(running.log().contains(expected), "{}", running.log());
    running.end(Signal::SIGTERM);

    let other = Lab::beside(&lab);
    let mut at_peer = levee("run --iface lv1 --protect 192.0.2.1:80 --metrics off");
    at_peer.arg("--secret-file").arg(other.path("secret"));
    at_peer
        .arg("--control-socket")
        .arg(other.path("levee.sock"));
    let _at_peer = other.start(&mut at_peer);
    let running = lab.start(&mut command);
    assert_eq!(running.status().interfaces[0].mode, "native");
    assert!(!running.log().contains(expected), "{}", running.log());
}

#[test]
fn a_start_can_be_interrupted() {
    let lab = Lab::new();
    let mut run = lab.run_flags("").stderr(Stdio::null()).spawn().unwrap();
    eventually("it has begun", || lab.path("levee.sock").exists());
    kill(Pid::from_raw(run.id().cast_signed()), Signal::SIGINT).unwrap();
    eventually("it has ended", || run.try_wait().unwrap().is_some());
    assert_eq!(run.wait().unwrap().code(), Some(0));
    assert!(link("lv0").xdp.is_empty());
    assert!(!lab.path("levee.sock").exists());
}

#[test]
fn a_lost_interface_is_reported() {
    let lab = Lab::new();
    let running = lab.start(&mut lab.run_flags(""));
    ip("link del lv0");
    eventually("not ready", || get("/-/ready").0.contains("503"));
    assert_eq!(
        get("/-/ready").1,
        "not ready: the XDP program is gone from lv0\n"
    );
    assert_eq!(
        metric("levee_protection_active{service=\"192.0.2.1:80\"}"),
        Some(0.0)
    );
    assert!(
        running.log().contains("lv0: the interface is gone"),
        "{}",
        running.log()
    );
    assert!(!running.status().active);
    assert_eq!(running.end(Signal::SIGINT).code(), Some(0));
}

#[test]
fn listeners_that_admit_nobody_are_warned_about() {
    let lab = Lab::new();
    let _plain = std::net::TcpListener::bind("192.0.2.1:81").unwrap();
    let _multipath = MultipathListener::new("192.0.2.1", 82);
    let flags = "--protect 192.0.2.1:81 --protect 192.0.2.1:82 --protect 192.0.2.9:80";
    let running = lab.start(&mut lab.run_flags(flags));
    eventually("warned", || running.log().contains("Multipath"));
    let log = running.log();
    assert!(log.contains("192.0.2.1:80 has no server"), "{log}");
    let mut warned = log.lines().filter(|line| line.contains("WARN"));
    assert!(!warned.any(|line| line.contains("192.0.2.1:81")), "{log}");
    assert!(
        log.contains("192.0.2.9:80 is no address of this machine"),
        "{log}"
    );
    assert!(
        log.contains("192.0.2.1:82 has a server that listens with Multipath TCP"),
        "{log}"
    );
}

#[test]
fn several_interfaces_are_told_apart() {
    let lab = Lab::new();
    let running = lab.start(&mut lab.run_flags("--iface lv1"));
    let status = running.status();
    let names: Vec<_> = status.interfaces.iter().map(|i| i.name.as_str()).collect();
    assert_eq!(names, ["lv0", "lv1"]);
    assert_eq!(link("lv1").xdp.len(), 1);
}

#[test]
fn the_status_is_shown_to_people_and_programs() {
    let lab = Lab::new();
    let _running = lab.start(&mut lab.run_flags("--metrics off"));
    let show = |flags| {
        let mut command = levee("status");
        command
            .args(flags)
            .arg("--socket")
            .arg(lab.path("levee.sock"));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let table = show(&[][..] as &[&str]);
    assert!(
        table.contains("INTERFACE") && table.contains("192.0.2.1:80"),
        "{table}"
    );
    let json: serde_json::Value = serde_json::from_str(&show(&["--json"])).unwrap();
    assert_eq!(json["services"][0]["address"], "192.0.2.1:80");
    assert_eq!(json["interfaces"][0]["reasons"]["cookie_invalid"], 0);
}
