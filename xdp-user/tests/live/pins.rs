//! The data path outlives levee, and the next levee takes it over.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
};

use aya::maps::Array;
use levee::pins;
use nix::{
    sys::signal::{self, Signal},
    unistd::Pid,
};
use xdp_common::abi::{VERSION, names};

use crate::common::{Lab, Levee, eventually, ip, levee, link, metric, refusal};

/// Where the data path of a lab's levee is pinned, unless it is told otherwise.
fn directory(lab: &Lab) -> PathBuf {
    pins::default_directory(&lab.path("levee.sock"))
}

/// Where its maps are.
fn maps(lab: &Lab) -> PathBuf {
    directory(lab).join(format!("v{VERSION}"))
}

/// Kills levee, which leaves its data path behind, and the program on `lv0`.
fn kill(running: Levee) -> u32 {
    let [program] = link("lv0").xdp[..] else {
        panic!("one program is attached");
    };
    running.end(Signal::SIGKILL);
    assert_eq!(link("lv0").xdp, [program], "it stays attached");
    program
}

/// Waits until packets that came in are counted, and returns how many.
fn some_packets(running: &Levee) -> u64 {
    let passed = || running.status().interfaces[0].packets.pass;
    let before = passed();
    eventually("packets are counted", || {
        // The peer announces itself over IPv6 whenever it comes up.
        ip("link set lv1 down");
        ip("link set lv1 up");
        passed() > before
    });
    passed()
}

/// Names of what is pinned below `links`.
fn links(lab: &Lab) -> Vec<String> {
    let entries = fs::read_dir(directory(lab).join("links")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

#[test]
fn a_levee_that_died_is_succeeded() {
    let lab = Lab::new();
    let mut command = lab.run_flags("--protect 192.0.2.1:81");
    let running = lab.start(&mut command);
    assert!(!running.status().adopted);
    assert_eq!(metric("levee_datapath_adopted"), Some(0.0));
    let counted = some_packets(&running);
    let program = kill(running);

    let running = lab.start(&mut command);
    let log = running.log();
    assert!(log.contains("took over the data path pinned at"), "{log}");
    let status = running.status();
    assert!(status.adopted && status.active);
    assert_eq!(metric("levee_datapath_adopted"), Some(1.0));
    assert!(status.interfaces[0].packets.pass >= counted, "{status:?}");
    assert_ne!(link("lv0").xdp, [program], "the program is a new one");
    assert_eq!(link("lv0").xdp.len(), 1);

    assert!(running.end(Signal::SIGTERM).success());
    assert!(link("lv0").xdp.is_empty());
    assert!(
        !directory(&lab).exists(),
        "an orderly stop removes the pins"
    );
}

#[test]
fn what_a_levee_that_died_has_left_can_be_taken_off() {
    let lab = Lab::new();
    let ask = |command| {
        let mut command = levee(command);
        command.arg("--socket").arg(lab.path("levee.sock"));
        command
    };
    let text = refusal(&mut ask("detach"));
    assert!(text.contains("nothing is pinned at"), "{text}");
    let running = lab.start(&mut lab.run_flags("--metrics off"));
    let text = refusal(&mut ask("detach"));
    assert!(text.contains("another levee runs with"), "{text}");
    assert!(running.status().active);
    kill(running);
    let text = refusal(&mut ask("status"));
    assert!(text.contains("its data path goes on"), "{text}");
    assert!(ask("detach").status().unwrap().success());
    assert!(link("lv0").xdp.is_empty());
    assert!(!directory(&lab).exists());
}

/// Kills a process of this test when dropped: an upgrade's is not a child of this one.
struct Orphan(Pid);

impl Drop for Orphan {
    fn drop(&mut self) {
        // It may have ended already; then there is nothing to do.
        let _ = signal::kill(self.0, Signal::SIGKILL);
    }
}

#[test]
fn an_upgrade_starts_the_program_again() {
    let lab = Lab::new();
    let ask = |command| {
        let mut command = levee(command);
        command.arg("--socket").arg(lab.path("levee.sock"));
        command.output().unwrap()
    };
    let running = lab.start(&mut lab.run_flags("--metrics off"));
    let former = running.status();
    let output = ask("upgrade");
    assert!(output.status.success(), "{output:?}: {}", running.log());
    let status = running.status();
    let successor = Orphan(Pid::from_raw(status.pid.cast_signed()));
    let text = String::from_utf8(output.stdout).unwrap();
    let expected = format!("(process {}) has taken over", status.pid);
    assert!(text.contains(&expected), "{text}");
    assert_ne!(status.pid, former.pid);
    assert!(status.adopted && status.active);
    let log = running.log();
    assert!(log.contains("left the data path to another levee"), "{log}");
    assert!(running.wait().success());

    signal::kill(successor.0, Signal::SIGTERM).unwrap();
    eventually("the new one stops", || !lab.path("levee.sock").exists());
    assert!(link("lv0").xdp.is_empty());
}

#[test]
fn an_upgrade_that_fails_changes_nothing() {
    let lab = Lab::new();
    let config = |pin_dir| {
        lab.write_config(&format!(
            "{pin_dir}\n[metrics]\nlisten = \"off\"\n[[interface]]\nname = \"lv0\"\n\
             [[service]]\naddress = \"192.0.2.1:80\"\n"
        ))
    };
    let running = lab.start(&mut lab.run_config(&config("")));
    let pid = running.status().pid;
    let upgrade = || {
        let mut command = levee("upgrade --socket");
        refusal(command.arg(lab.path("levee.sock")))
    };
    lab.write_config("nonsense = 1");
    let text = upgrade();
    assert!(text.contains("The levee before it goes on"), "{text}");
    assert!(running.log().contains("nonsense"), "{}", running.log());
    let status = running.status();
    assert!(status.active && status.pid == pid);
    running.end(Signal::SIGTERM);

    let running = lab.start(&mut lab.run_config(&config("pin_dir = \"off\"")));
    let text = upgrade();
    assert!(text.contains("the data path is not pinned"), "{text}");
    assert!(running.status().active);
}

#[test]
fn nothing_is_left_of_a_start_that_fails() {
    let lab = Lab::new();
    let mut taken = lab.run_flags("--iface lv1");
    ip("link add br0 type bridge");
    let config = lab.write_config(
        "[[interface]]\nname = \"lv0\"\n[[interface]]\nname = \"br0\"\nmode = \"native\"\n\
         [[service]]\naddress = \"192.0.2.1:80\"\n",
    );
    let text = refusal(&mut lab.run_config(&config));
    assert!(text.contains("br0 in native mode"), "{text}");
    assert!(link("lv0").xdp.is_empty());
    assert!(!directory(&lab).exists());

    // What was there before stays.
    let program = kill(lab.start(&mut taken));
    let text = refusal(&mut lab.run_config(&config));
    assert!(text.contains("br0 in native mode"), "{text}");
    assert_eq!(link("lv0").xdp.len(), 1);
    assert_eq!(link("lv1").xdp, [program]);
    assert!(lab.start(&mut taken).status().adopted);
}

#[test]
fn a_second_levee_is_refused_while_one_runs() {
    let lab = Lab::new();
    let running = lab.start(&mut lab.run_flags("--metrics off"));
    let other = Lab::beside(&lab);
    let directory = directory(&lab);
    let mut second = other.run_flags("--metrics off --pin-dir");
    second.arg(&directory);
    let text = refusal(&mut second);
    let expected = format!(
        "another levee runs with its data path pinned at {}",
        directory.display()
    );
    assert!(text.contains(&expected), "{text}");
    assert!(running.status().active, "the first one is not disturbed");
}

#[test]
fn interfaces_that_are_no_longer_configured_are_detached() {
    let lab = Lab::new();
    let running = lab.start(&mut lab.run_flags("--iface lv1 --metrics off"));
    let status = running.status();
    let pinned = status.interfaces.iter().flat_map(|interface| {
        let (mode, index) = (&interface.mode, interface.index);
        [format!("tc-{index}"), format!("xdp-{mode}-{index}")]
    });
    let mut pinned: Vec<_> = pinned.collect();
    pinned.sort();
    assert_eq!(links(&lab), pinned);
    kill(running);

    let running = lab.start(&mut lab.run_flags("--metrics off"));
    assert!(running.status().active);
    assert!(link("lv1").xdp.is_empty());
    let index = link("lv0").index;
    pinned.retain(|name| name.ends_with(&format!("-{index}")));
    assert_eq!(links(&lab), pinned);
}

#[test]
fn another_mode_than_before_is_attached_anew() {
    let lab = Lab::new();
    let config = |mode| {
        lab.write_config(&format!(
            "[metrics]\nlisten = \"off\"\n[[interface]]\nname = \"lv0\"\nmode = \"{mode}\"\n\
             [[service]]\naddress = \"192.0.2.1:80\"\n"
        ))
    };
    kill(lab.start(&mut lab.run_config(&config("native"))));
    let running = lab.start(&mut lab.run_config(&config("generic")));
    assert_eq!(running.status().interfaces[0].mode, "generic");
    assert!(running.log().contains("is taken off and attached again"));
    kill(running);
    let running = lab.start(&mut lab.run_config(&config("auto")));
    assert_eq!(running.status().interfaces[0].mode, "generic");
}

#[test]
fn a_map_of_another_layout_is_refused() {
    let lab = Lab::new();
    let program = kill(lab.start(&mut lab.run_flags("--metrics off")));
    let path = maps(&lab).join(names::CLOSING);
    fs::remove_file(&path).unwrap();
    let other = Array::<_, u32>::create(7, 0).unwrap();
    other.pin(&path).unwrap();
    let text = refusal(&mut lab.run_flags("--metrics off"));
    let expected = [
        format!("the map CLOSING pinned at {} is Array", path.display()),
        "with keys of 4 and values of 4 bytes, 7 entries, flags 0x0".into(),
        "expects Array with keys of 4 and values of 65536 bytes, 4 entries, flags 0x0".into(),
    ];
    for part in expected {
        assert!(text.contains(&part), "{text}");
    }
    assert_eq!(link("lv0").xdp, [program], "it is left alone");
}

#[test]
fn maps_of_another_version_are_left_behind() {
    let lab = Lab::new();
    let mut command = lab.run_flags("");
    let running = lab.start(&mut command);
    some_packets(&running);
    let program = kill(running);
    let other = directory(&lab).join("v0");
    fs::rename(maps(&lab), &other).unwrap();
    let running = lab.start(&mut command);
    let log = running.log();
    assert!(log.contains("is of another version of levee"), "{log}");
    assert!(!running.status().adopted);
    assert!(!other.exists());
    assert_eq!(link("lv0").xdp.len(), 1);
    assert_ne!(link("lv0").xdp, [program], "its program was replaced");
}

/// As when levee died between pinning the first map and the last.
#[test]
fn half_of_a_data_path_is_not_adopted() {
    let lab = Lab::new();
    let mut command = lab.run_flags("--metrics off");
    kill(lab.start(&mut command));
    fs::remove_file(maps(&lab).join(names::CONTROL)).unwrap();
    let running = lab.start(&mut command);
    assert!(!running.status().adopted);
    assert!(running.status().active);
}

#[test]
fn without_pins_the_data_path_ends_with_levee() {
    let lab = Lab::new();
    let running = lab.start(&mut lab.run_flags("--metrics off --pin-dir off"));
    assert!(running.log().contains("the data path is not pinned"));
    assert!(!directory(&lab).exists());
    running.end(Signal::SIGKILL);
    // The kernel detaches what a killed process held, soon after.
    eventually("detached", || link("lv0").xdp.is_empty());
}

#[test]
fn a_bpf_file_system_is_mounted_where_there_is_none() {
    let lab = Lab::new();
    umount();
    let mut stripped = Command::new("setpriv");
    let run = lab.run_flags("--metrics off");
    stripped
        .arg("--bounding-set=-all,+net_admin,+bpf,+perfmon")
        .arg(run.get_program())
        .args(run.get_args());
    let text = refusal(&mut stripped);
    assert!(text.contains("mount -t bpf bpf /sys/fs/bpf. Or"), "{text}");
    let text = refusal(&mut lab.run_flags("--pin-dir /proc/levee"));
    let expected = "/proc is not on a BPF file system: mount one there";
    assert!(text.contains(expected), "{text}");
    let running = lab.start(&mut lab.run_flags("--metrics off"));
    assert!(running.log().contains("mounted a BPF file system"));
    assert!(running.status().active);
    drop(running);
    umount();
}

/// Takes all BPF file systems away that this thread sees.
fn umount() {
    let mut umount = Command::new("umount");
    umount.arg("/sys/fs/bpf").stderr(Stdio::null());
    while umount.status().unwrap().success() {}
}
