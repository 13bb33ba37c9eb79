//! What the live tests share: a network namespace for each, and levee in it.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use levee::{
    ctl::{self, Request, Response, Status},
    netlink::link::{Link, links},
};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::{
        prctl,
        signal::{Signal, kill},
    },
    unistd::Pid,
};
use tempfile::TempDir;

/// How long anything that should happen soon may take: the machine may be busy with other tests.
const SOON: Duration = Duration::from_secs(30);

/// How long a start may take: the kernel verifies all programs, on one CPU.
const START_TIMEOUT: Duration = Duration::from_secs(120);

/// The metrics address unless a test chooses another. Every namespace has its own.
pub(crate) const METRICS: &str = "127.0.0.1:9977";

/// A network namespace of this thread, with a veth pair `lv0` - `lv1`, a BPF file system for its
/// pins, and a directory for files. The kernel removes namespace and pins when the thread and what
/// it started have ended.
pub(crate) struct Lab {
    dir: TempDir,
}

impl Lab {
    /// Moves this thread into a new namespace. Needs root.
    pub(crate) fn new() -> Self {
        let flags = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS;
        unshare(flags).expect("root, to make namespaces");
        mount_bpffs();
        ip("link set lo up");
        ip("link add lv0 type veth peer name lv1");
        for name in ["lv0", "lv1"] {
            ip(&format!("link set {name} up"));
        }
        ip("addr add 192.0.2.1/24 dev lv0");
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    /// Another directory in the namespace of `_lab`.
    pub(crate) fn beside(_lab: &Self) -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    /// A path in this lab's directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a configuration that uses this lab's directory; `rest` comes behind.
    pub(crate) fn write_config(&self, rest: &str) -> PathBuf {
        let text = format!(
            "secret_file = {:?}\ncontrol_socket = {:?}\n{rest}",
            self.path("secret"),
            self.path("levee.sock")
        );
        let path = self.path("levee.toml");
        fs::write(&path, text).unwrap();
        path
    }

    /// `levee run` on `lv0` with further flags, without a file.
    pub(crate) fn run_flags(&self, flags: &str) -> Command {
        let mut command = levee("run --iface lv0 --protect 192.0.2.1:80");
        command
            .arg("--secret-file")
            .arg(self.path("secret"))
            .arg("--control-socket")
            .arg(self.path("levee.sock"))
            .args(flags.split_whitespace());
        command
    }

    /// `levee run` with a configuration file.
    pub(crate) fn run_config(&self, config: &Path) -> Command {
        let mut command = levee("run --config");
        command.arg(config);
        command
    }

    /// Starts levee and waits until it is ready.
    pub(crate) fn start(&self, command: &mut Command) -> Levee {
        let log = self.path("log");
        let child = command
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let mut levee = Levee {
            child,
            log,
            socket: self.path("levee.sock"),
        };
        let deadline = Instant::now() + START_TIMEOUT;
        while !levee.log().contains("ready;") {
            let ended = levee.child.try_wait().unwrap();
            assert!(ended.is_none(), "levee ended: {}", levee.log());
            assert!(Instant::now() < deadline, "not ready: {}", levee.log());
            thread::sleep(Duration::from_millis(20));
        }
        levee
    }
}

/// Mounts a BPF file system in the mount namespace of this thread.
fn mount_bpffs() {
    let nothing = None::<&str>;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(nothing, "/", nothing, private, nothing).unwrap();
    let flags = MsFlags::empty();
    mount(Some("bpf"), "/sys/fs/bpf", Some("bpf"), flags, nothing).unwrap();
}

/// A running levee; killed when dropped.
pub(crate) struct Levee {
    child: Child,
    log: PathBuf,
    socket: PathBuf,
}

impl Levee {
    /// What it has logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    /// Sends it a signal and waits until it has ended.
    pub(crate) fn end(self, signal: Signal) -> ExitStatus {
        self.signal(signal);
        self.wait()
    }

    /// Waits until it has ended.
    pub(crate) fn wait(mut self) -> ExitStatus {
        let mut status = None;
        eventually("levee ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    /// Its status, over the control socket.
    pub(crate) fn status(&self) -> Status {
        match ctl::request(&self.socket, Request::Status).unwrap() {
            Response::Status(status) => *status,
            other => panic!("{other:?}"),
        }
    }
}

impl Drop for Levee {
    fn drop(&mut self) {
        // It may have ended already; then there is nothing to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A server that listens with Multipath TCP; killed when dropped. The standard library and nix do
/// not know the protocol, Python does.
pub(crate) struct MultipathListener(Child);

impl MultipathListener {
    pub(crate) fn new(address: &str, port: u16) -> Self {
        let script = format!(
            "import socket, time\n\
             s = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_MPTCP)\n\
             s.bind(('{address}', {port}))\n\
             s.listen()\n\
             print(flush=True)\n\
             time.sleep(600)"
        );
        let mut python = Command::new("python3")
            .args(["-c", &script])
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 is installed");
        let mut line = [0];
        let mut stdout = python.stdout.take().unwrap();
        stdout.read_exact(&mut line).unwrap();
        Self(python)
    }
}

impl Drop for MultipathListener {
    fn drop(&mut self) {
        // It may have ended already; then there is nothing to do.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The `levee` command, killed if this thread ends before it.
pub(crate) fn levee(arguments: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_levee"));
    command
        .args(arguments.split_whitespace())
        .env_remove("RUST_LOG");
    // SAFETY: between fork and exec only an async-signal-safe system call is made.
    unsafe {
        command.pre_exec(|| Ok(prctl::set_pdeathsig(Signal::SIGKILL)?));
    }
    command
}

/// Runs `ip` in the namespace of this thread.
pub(crate) fn ip(arguments: &str) {
    let output = Command::new("ip")
        .args(arguments.split_whitespace())
        .output()
        .expect("ip, of the Debian package iproute2, is installed");
    assert!(output.status.success(), "ip {arguments}: {output:?}");
}

/// The interface of this namespace with that name.
pub(crate) fn link(name: &str) -> Link {
    let links = links().unwrap();
    links.into_iter().find(|link| link.name == name).unwrap()
}

/// Waits until something is so.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !condition() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Fetches a page of the metrics server: the status line and the body.
pub(crate) fn get(path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(METRICS).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: levee\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.lines().next().unwrap().into(), body.into())
}

/// The value of a metric, by its name with labels.
pub(crate) fn metric(name: &str) -> Option<f64> {
    let (_, body) = get("/metrics");
    let mut values = body.lines().filter_map(|line| line.rsplit_once(' '));
    let (_, value) = values.find(|(found, _)| *found == name)?;
    Some(value.parse().unwrap())
}

/// Runs a command that must fail with exit code 1, and returns what it said.
pub(crate) fn refusal(command: &mut Command) -> String {
    let Output { status, stderr, .. } = command.output().unwrap();
    let text = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(1), "{text}");
    text
}
