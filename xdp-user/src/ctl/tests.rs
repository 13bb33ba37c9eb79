use std::{
    io::{Read as _, Write as _},
    net::Shutdown,
    os::unix::{
        fs::PermissionsExt as _,
        net::{UnixListener, UnixStream},
    },
    path::Path,
    sync::Arc,
    thread,
};

use tokio::{runtime::Runtime, sync::mpsc};

use super::*;
use crate::{shared::Shared, snapshot::fixture::snapshot};

#[test]
fn the_table_shows_what_matters() {
    let mut status = Status::new(&snapshot());
    status.pid = 4711;
    let expected = "\
levee 0.1.0 (pid 4711), up 1 h 2 min, cookie key epoch 27000000: protecting
It took the data path over from an earlier levee, whose counters go on.

INTERFACE  MODE    PASSED  ANSWERED  DROPPED  PASSED/s  ANSWERED/s  DROPPED/s
eth0       native   8 045     1 007   20 363       125          17        563

SERVICE  ADDRESS         SYN-ACKS  VALID  INVALID  ADMITTED  NO LISTENER  REFUSED  UNPROVEN  SYN_RECV
web      192.0.2.10:443     2 007  2 004    2 021     2 033        2 034    2 035     2 101     2 202

Proxy: 6 403 of at most 100 000 connections, 2 thread(s), 6.3 KiB wait for slow receivers

PROXIED  ACTIVE  ACCEPTED  REFUSED  ENDED  RETRIES  HALF-OPEN    OLDEST  IN       OUT
app       3 101     3 001    3 002  9 012    3 006  3 007/4 096  1.5 s   2.9 KiB  3.0 KiB

BACKEND        OF   ADDRESS       STATE       WEIGHT  ACTIVE   MADE  FAILED
a              app  10.0.0.11:80  up          1.00     3 102  3 103       0
b.internal:80  app  -             UNRESOLVED

PROXIED  CONNECTIONS  REASON             NUMBER
app      ended        half_open_evicted   3 005
app      ended        idle_timeout        3 004
app      ended        finished            3 003
app      refused      client_rate         3 002

Spliced: 4 011 of at most 1 048 576 connections

SPLICED   OPEN  CLOSING  OVER   MADE  FAILED  ENDED  HALF-OPEN    OLDEST
db       4 005        0     0  4 001   4 002  4 004  4 006/4 096  2.5 s

BACKEND  OF  ADDRESS         STATE  WEIGHT  ACTIVE  MADE  FAILED  TCP
one      db  10.0.0.21:5432  up     1.00         0     0       0  -
10.0.0.21:5432 cannot be reached: no route

DROP REASON        PACKETS
fragment_spliced     1 031
next_hop_unknown     1 030
engine_absent        1 029
ttl_expired          1 025
reply_failed         1 023
rst_no_connection    1 022
cookie_invalid       1 021
source_invalid       1 020
";
    assert_eq!(render(&status), expected);
    status.drops.clear();
    status.active = false;
    status.interfaces[0].attached = false;
    status.last_reload_successful = false;
    let text = render(&status);
    for part in [
        "NOT PROTECTING",
        "LOST",
        "reload FAILED",
        "Nothing dropped.",
    ] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn the_status_survives_json() {
    let status = Status::new(&snapshot());
    let json = serde_json::to_string(&Response::Status(Box::new(status.clone()))).unwrap();
    let Response::Status(read) = serde_json::from_str(&json).unwrap() else {
        panic!("{json}");
    };
    assert_eq!(*read, status);
}

fn with_server(test: impl FnOnce(&Path) + Send) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run/levee.sock");
    let runtime = Runtime::new().unwrap();
    let (commands, mut received) = mpsc::channel(1);
    let socket = runtime
        .block_on(async { ControlSocket::bind(&path) })
        .unwrap();
    let server = runtime.spawn(serve(socket, Arc::new(Shared::new()), commands));
    runtime.spawn(async move {
        while let Some(Command::Reload(reply)) = received.recv().await {
            let needs_restart = vec!["interface".into()];
            let reloaded = Reloaded {
                needs_restart,
                ..Reloaded::default()
            };
            reply.send(Ok(reloaded)).unwrap();
        }
    });
    thread::scope(|scope| scope.spawn(|| test(&path)).join().unwrap());
    server.abort();
    assert!(runtime.block_on(server).unwrap_err().is_cancelled());
    assert!(!path.exists(), "the socket's file is removed");
}

#[test]
fn clients_are_answered() {
    with_server(|path| {
        let mode = path.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let Response::Reloaded(reloaded) = request(path, Request::Reload).unwrap() else {
            panic!("another answer");
        };
        assert_eq!(reloaded.needs_restart, ["interface"]);
        let error = request(path, Request::Status).unwrap_err();
        assert_eq!(error.to_string(), "levee is starting or stopping");
        let listing = Request::Connections {
            selection: Selection::default(),
            limit: LISTED_DEFAULT,
        };
        let error = request(path, listing).unwrap_err().to_string();
        assert!(
            error.starts_with("no service of this levee is in proxy or splice mode"),
            "{error}"
        );
    });
}

#[test]
fn nothing_is_ended_by_leaving_the_conditions_out() {
    with_server(|path| {
        let kill = |selection: &Selection, all| {
            let selection = selection.clone();
            request(path, Request::Kill { selection, all })
                .unwrap_err()
                .to_string()
        };
        let nothing = Selection::default();
        let some = Selection {
            service: Some("web".into()),
            ..Selection::default()
        };
        assert!(kill(&nothing, false).starts_with("found no condition, allowed: an id or"));
        assert!(kill(&some, true).starts_with("found --all with a condition, allowed: "));
        let wrong = Selection {
            client: Some("nobody".into()),
            ..Selection::default()
        };
        assert!(kill(&wrong, false).starts_with("--client: found \"nobody\", allowed: "));
        for (selection, all) in [(&nothing, true), (&some, false)] {
            assert!(kill(selection, all).starts_with("no service of this levee"));
        }
    });
}

/// Sends bytes and reads what comes back.
fn say(path: &Path, bytes: &[u8]) -> String {
    let mut stream = UnixStream::connect(path).unwrap();
    // The server may have heard enough before all of it is sent.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8(answer).unwrap()
}

#[test]
fn nonsense_is_answered_with_an_error() {
    with_server(|path| {
        let endless = vec![b'['; 1 << 20];
        let cases: [&[u8]; 6] = [
            b"",
            b"\n",
            b"\"stat",
            b"\xff\xfe\0\n",
            b"\"sleep\"\n",
            &endless,
        ];
        for bytes in cases {
            let answer = say(path, bytes);
            assert!(answer.contains("cannot understand the request"), "{answer}");
        }
    });
}

#[test]
fn conditions_without_end_are_not_sent() {
    with_server(|path| {
        let of_service = |name: String| Request::Kill {
            selection: Selection {
                service: Some(name),
                ..Selection::default()
            },
            all: false,
        };
        for len in [1_000, 10 << 20] {
            let error = request(path, of_service("a".repeat(len))).unwrap_err();
            let error = error.to_string();
            assert!(error.starts_with("found conditions of "), "{error}");
        }
        // The longest that there may be, each of its characters as long as JSON can make it.
        let longest = Selection {
            service: Some("<".repeat(64)),
            client: Some(format!("{}/128", ["ffff"; 8].join(":"))),
            backend: Some(format!("{}:65535", "a".repeat(254))),
            state: Some("SYN_RECEIVED".into()),
            idle: Some("2073600000ms".into()),
            age: Some("2073600000ms".into()),
            id: Some("ffff-ffffffff-ffffffff".into()),
        };
        let selection = longest.clone();
        let error = request(
            path,
            Request::Kill {
                selection,
                all: false,
            },
        )
        .unwrap_err();
        let error = error.to_string();
        assert!(error.starts_with("no service of this levee"), "{error}");
    });
}

#[test]
fn silent_clients_do_not_keep_others_out() {
    with_server(|path| {
        let silent: Vec<_> = (0..200)
            .map(|_| UnixStream::connect(path).unwrap())
            .collect();
        request(path, Request::Reload).unwrap();
        drop(silent);
    });
}

#[test]
fn a_server_that_says_nothing_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sock");
    let listener = UnixListener::bind(&path).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            let (mut stream, _) = listener.accept().unwrap();
            // Unread bytes would make the end a reset.
            stream.read_exact(&mut [0; "\"status\"\n".len()]).unwrap();
        });
        let error = format!("{:#}", request(&path, Request::Status).unwrap_err());
        assert!(error.contains("without a word"), "{error}");
    });
}

#[test]
fn a_live_socket_is_refused_and_a_stale_one_replaced() {
    with_server(|path| {
        let runtime = Runtime::new().unwrap();
        let bind = |path: &Path| runtime.block_on(async { ControlSocket::bind(path) });
        let error = bind(path).unwrap_err().to_string();
        assert!(error.contains("another levee is running"), "{error}");
        let stale = path.with_file_name("stale.sock");
        drop(UnixListener::bind(&stale).unwrap());
        assert!(stale.exists());
        drop(bind(&stale).unwrap());
        std::fs::write(&stale, "precious").unwrap();
        let error = bind(&stale).unwrap_err().to_string();
        assert!(error.contains("that is no socket"), "{error}");
    });
}

#[test]
fn no_levee_is_told_from_no_answer() {
    let dir = tempfile::tempdir().unwrap();
    let error = request(&dir.path().join("none"), Request::Status).unwrap_err();
    assert!(error.to_string().contains("is levee running?"), "{error}");
}
