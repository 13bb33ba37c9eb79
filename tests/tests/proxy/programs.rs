//! Real programs through the proxy, whose connections live as long as their heartbeats do.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::TcpStream,
    path::PathBuf,
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use levee_tests::{
    process::Process,
    relay::listens,
    sockets::{Server, connect, eventually},
};
use nix::sys::signal::Signal;
use tokio_tungstenite::tungstenite::{self, Message, WebSocket};

use crate::common::{Stage, address, assert_reset, backend};

/// Between two heartbeats: well within [`IDLE`].
const HEARTBEAT: Duration = Duration::from_millis(700);
const IDLE: &str = "idle_timeout = \"2s\"";
/// Longer than that.
const LIFE: Duration = Duration::from_secs(5);

fn web_socket_echo(stream: TcpStream) -> std::io::Result<()> {
    let mut socket = tungstenite::accept(stream).expect("a WebSocket handshake");
    while let Ok(message) = socket.read() {
        let answer = if message.is_text() {
            socket.send(message)
        } else {
            // The answer to a ping is queued by reading it.
            socket.flush()
        };
        if answer.is_err() {
            break;
        }
    }
    Ok(())
}

fn web_socket(stage: &Stage) -> WebSocket<TcpStream> {
    let stream = connect(&stage.lab.client, address());
    let (socket, _) = tungstenite::client(format!("ws://{}/", address()), stream).unwrap();
    socket
}

fn beat(socket: &mut WebSocket<TcpStream>) {
    socket.send(Message::Ping("beat".into())).unwrap();
    assert_eq!(socket.read().unwrap(), Message::Pong("beat".into()));
}

#[test]
fn a_web_socket_lives_by_its_heartbeats() {
    let stage = Stage::simple(IDLE);
    let _server = Server::start(&stage.lab.backend, backend(), web_socket_echo);
    let (mut alive, silent) = (web_socket(&stage), web_socket(&stage));
    let start = Instant::now();
    while start.elapsed() < LIFE {
        beat(&mut alive);
        thread::sleep(HEARTBEAT);
    }
    alive.send(Message::text("still there")).unwrap();
    assert_eq!(alive.read().unwrap(), Message::text("still there"));
    assert_reset(silent.get_ref());
    assert_eq!(stage.closed("idle_timeout"), 1);
}

#[test]
fn redis() {
    let stage = Stage::simple(IDLE);
    let mut command = stage.lab.backend.command("redis-server");
    let (ip, port) = (backend().ip().to_string(), backend().port().to_string());
    command
        .args(["--bind", &ip, "--port", &port, "--save", ""])
        .args(["--appendonly", "no", "--protected-mode", "no"])
        .current_dir(stage.lab.scratch())
        .stdout(Stdio::null());
    let _redis = Process::spawn("redis-server", command).unwrap();
    eventually("redis listens", || {
        listens(&stage.lab.backend, backend()).unwrap()
    });
    let cli = |words: &str| {
        let (ip, port) = (address().ip(), address().port());
        let line = format!("redis-cli -h {ip} -p {port} {words}");
        stage.lab.client.tool(&line).unwrap()
    };
    assert_eq!(cli("set key value").trim(), "OK");
    assert_eq!(cli("get key").trim(), "value");
    let mut subscriber = connect(&stage.lab.client, address());
    let mut lines = BufReader::new(subscriber.try_clone().unwrap()).lines();
    let mut expect = |line: &str| {
        let found = lines.by_ref().find(|found| found.as_ref().unwrap() == line);
        assert!(found.is_some(), "{line}");
    };
    subscriber.write_all(b"SUBSCRIBE news\r\n").unwrap();
    expect("news");
    let start = Instant::now();
    while start.elapsed() < LIFE {
        subscriber.write_all(b"PING\r\n").unwrap();
        expect("pong");
        thread::sleep(HEARTBEAT);
    }
    assert_eq!(cli("publish news hello").trim(), "1");
    expect("hello");
    assert_eq!(stage.closed("idle_timeout"), 0);
}

/// PostgreSQL's programs, where Debian has them.
fn postgres_bin() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL is installed");
    let bins = versions.map(|version| version.unwrap().path().join("bin"));
    bins.max().expect("a version of PostgreSQL")
}

/// PostgreSQL refuses to run as root; its package has a user for it.
const AS_POSTGRES: [&str; 7] = [
    "--reuid=postgres",
    "--regid=postgres",
    "--clear-groups",
    "--pdeathsig=KILL",
    "--reset-env",
    "--inh-caps=-all",
    "--",
];

/// A new database cluster at work in the backend's namespace.
fn postgres(stage: &Stage) -> Process {
    let directory = stage.lab.scratch().display().to_string();
    let bin = postgres_bin().display().to_string();
    let run = |line: &str| stage.lab.backend.tool(line).unwrap();
    run(&format!("chown postgres {directory}"));
    let user = AS_POSTGRES.join(" ");
    run(&format!(
        "setpriv {user} {bin}/initdb -D {directory}/data -A trust --no-sync"
    ));
    let hba = stage.lab.scratch().join("data/pg_hba.conf");
    let hba = fs::OpenOptions::new().append(true).open(hba);
    hba.unwrap()
        .write_all(b"host all all 10.78.0.0/16 trust\n")
        .unwrap();
    let mut command = stage.lab.backend.command("setpriv");
    command
        .args(AS_POSTGRES)
        .args([
            &format!("{bin}/postgres"),
            "-D",
            &format!("{directory}/data"),
        ])
        .args(["-p", &backend().port().to_string(), "-F", "-k", &directory])
        .args(["-h", &backend().ip().to_string()])
        .current_dir(stage.lab.scratch())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let process = Process::spawn("postgres", command).unwrap();
    eventually("PostgreSQL listens", || {
        listens(&stage.lab.backend, backend()).unwrap()
    });
    process
}

/// A client program of PostgreSQL, with what it is told on its standard input.
fn postgres_client(stage: &Stage, program: &str, arguments: &[&str], input: &str) -> String {
    let program = postgres_bin().join(program);
    let mut command = stage.lab.client.command(&program.to_string_lossy());
    let port = address().port().to_string();
    let (ip, mut environment) = (address().ip().to_string(), vec![("PGUSER", "postgres")]);
    environment.extend([
        ("PGHOST", &*ip),
        ("PGPORT", &*port),
        ("PGDATABASE", "postgres"),
    ]);
    command
        .args(arguments)
        .envs(environment)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{program:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn postgresql() {
    let stage = Stage::simple(IDLE);
    let mut server = postgres(&stage);
    eventually("it accepts connections", || {
        let ready = postgres_bin().join("pg_isready").display().to_string();
        let (ip, port) = (address().ip(), address().port());
        stage
            .lab
            .client
            .tool(&format!("{ready} -h {ip} -p {port}"))
            .is_ok()
    });
    let sum = postgres_client(&stage, "psql", &["-At"], "select 40 + 2;\n");
    assert_eq!(sum.trim(), "42");
    postgres_client(&stage, "pgbench", &["-i", "-q"], "");
    let report = postgres_client(&stage, "pgbench", &["-c", "4", "-T", "2"], "");
    println!("{report}");
    assert!(
        report.contains("number of failed transactions: 0"),
        "{report}"
    );
    // One session that outlives the idle timeout by its queries.
    let queries = format!("select pg_sleep({});\n", HEARTBEAT.as_secs_f64()).repeat(7);
    let session = postgres_client(&stage, "psql", &["-At"], &(queries + "select 'alive';\n"));
    assert_eq!(session.trim(), "alive");
    assert_eq!(stage.closed("idle_timeout"), 0);
    server.signal(Signal::SIGINT).unwrap();
    server
        .wait(levee_tests::process::TERMINATE_TIMEOUT)
        .unwrap();
    stage.assert_nothing_left();
}
