//! However the demo ends, nothing of it stays.
use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

const LIMIT: Duration = Duration::from_secs(20);

/// Starts the demo and waits until its flood runs.
fn demo_under_way() -> (Child, BufReader<ChildStdout>) {
    let mut demo = Command::new(env!("CARGO_BIN_EXE_levee-lab"))
        .args(["demo", "--rate", "10000", "--seconds", "20"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(demo.stdout.take().unwrap());
    let mut line = String::new();
    while !line.trim_start().starts_with("3s") {
        line.clear();
        assert_ne!(
            output.read_line(&mut line).unwrap(),
            0,
            "the demo ended early"
        );
    }
    (demo, output)
}

/// The demo's children, as (process id, name).
fn children(demo: &Child) -> Vec<(u32, String)> {
    let parent = format!("PPid:\t{}", demo.id());
    let processes = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let id: u32 = entry.unwrap().file_name().to_str()?.parse().ok()?;
        // A process that ends meanwhile is none of the demo's.
        let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
        let name = status
            .lines()
            .next()?
            .trim_start_matches("Name:\t")
            .to_owned();
        status
            .lines()
            .any(|line| line == parent)
            .then_some((id, name))
    });
    processes.collect()
}

fn scratch_directories(demo: &Child) -> Vec<PathBuf> {
    let prefix = format!("levee-lab-{}-", demo.id());
    let entries = fs::read_dir(std::env::temp_dir()).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .filter(|path| {
            path.file_name()
                .unwrap()
                .to_string_lossy()
                .starts_with(&prefix)
        })
        .collect()
}

fn end(demo: &mut Child, signal: Signal) -> ExitStatus {
    kill(Pid::from_raw(i32::try_from(demo.id()).unwrap()), signal).unwrap();
    demo.wait().unwrap()
}

fn assert_gone(children: &[(u32, String)]) {
    let deadline = Instant::now() + LIMIT;
    for (id, name) in children {
        let comm = format!("/proc/{id}/comm");
        while fs::read_to_string(&comm).is_ok_and(|now| now.trim_end() == name) {
            assert!(
                Instant::now() < deadline,
                "{name} (process {id}) still runs"
            );
            thread::sleep(Duration::from_millis(10));
        }
    }
}

#[test]
fn an_interrupt_removes_everything() {
    let (mut demo, _output) = demo_under_way();
    let servers = children(&demo);
    assert!(
        servers.iter().any(|(_, name)| name == "nginx"),
        "{servers:?}"
    );
    assert!(!scratch_directories(&demo).is_empty());
    let status = end(&mut demo, Signal::SIGINT);
    assert_eq!(status.code(), Some(130));
    assert_gone(&servers);
    assert!(scratch_directories(&demo).is_empty());
}

#[test]
fn even_a_kill_leaves_no_process_and_the_next_lab_sweeps_up() {
    let (mut demo, _output) = demo_under_way();
    let servers = children(&demo);
    assert!(
        servers.iter().any(|(_, name)| name == "nginx"),
        "{servers:?}"
    );
    end(&mut demo, Signal::SIGKILL);
    assert_gone(&servers);
    assert!(!scratch_directories(&demo).is_empty());
    levee_tests::scratch::directory().unwrap();
    assert!(scratch_directories(&demo).is_empty());
}
