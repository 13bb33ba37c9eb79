//! Bounds: what happens at them, and that what is there goes on.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpStream},
    thread,
    time::{Duration, Instant},
};

use levee_tests::{
    sockets::{LIMIT, assert_echo, echo, eventually, reset, try_connect},
    splice_lab::SpliceOptions,
};

use crate::common::{Stage, addresses, assert_reset, assert_turned_away, services};

/// Reads until the end, which has to be a RST.
#[track_caller]
fn assert_reset_eventually(stream: &TcpStream) {
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    assert_reset(stream);
}

#[test]
fn silence_is_ended_at_both_ends() {
    let stage = Stage::new("idle_timeout = \"2s\"");
    for family in [0, 1] {
        let (mut busy, mut busy_server) = stage.pair(family);
        let (silent, silent_server) = stage.pair(family);
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(5) {
            busy.write_all(b"x").unwrap();
            busy_server.read_exact(&mut [0]).unwrap();
            thread::sleep(Duration::from_millis(200));
        }
        assert_reset_eventually(&silent);
        assert_reset_eventually(&silent_server);
        busy.write_all(b"still there").unwrap();
        busy_server.read_exact(&mut [0; 11]).unwrap();
    }
    let reaped = stage.metric("levee_flows_closed_total", &[("reason", "idle_timeout")]);
    assert_eq!(reaped, 2);
}

#[test]
fn half_closed_silence_is_ended_at_both_ends() {
    for (setting, client_first) in [("close_wait_timeout", true), ("fin_wait_timeout", false)] {
        let stage = Stage::new(&format!("{setting} = \"2s\""));
        for family in [0, 1] {
            let (client, server) = stage.pair(family);
            let (first, mut last) = if client_first {
                (client, server)
            } else {
                (server, client)
            };
            first.shutdown(Shutdown::Write).unwrap();
            assert_eq!(last.read(&mut [0]).unwrap(), 0);
            // A RST behind the FIN that was read is told by no read.
            for end in [&first, &last] {
                eventually("it is reset", || end.take_error().unwrap().is_some());
            }
        }
    }
}

const FLOWS_MAX: usize = 64;

/// New clients are refused, old ones go on, and there is room again when some have ended.
#[test]
fn a_full_table_refuses_the_new_and_keeps_the_old() {
    let configuration = format!("[splice]\nflows_max = {FLOWS_MAX}\n{}", services(""));
    let stage = Stage::with(SpliceOptions::default(), &configuration);
    let _servers = stage.serve(echo);
    let [address, _] = addresses();
    let mut old = Vec::new();
    for _ in 0..FLOWS_MAX {
        let Ok(client) = try_connect(&stage.lab.client, address) else {
            break;
        };
        let text = b"hello";
        let mut back = [0; 5];
        let served = (&client)
            .write_all(text)
            .and_then(|()| (&client).read_exact(&mut back));
        match served {
            Ok(()) => old.push(client),
            Err(_) => break,
        }
    }
    println!("{} clients fit", old.len());
    assert!(old.len() >= FLOWS_MAX - 1, "{}", old.len());
    for _ in 0..10 {
        assert_turned_away(&stage.lab.client, address);
    }
    for client in &old {
        assert_echo(client, "still there");
    }
    eventually("all refusals are counted", || {
        stage.metric("levee_handshakes_total", &[("outcome", "table_full")]) >= 10
    });
    for client in old.drain(..FLOWS_MAX / 2) {
        reset(client);
    }
    eventually("a new client finds room", || {
        let Ok(client) = try_connect(&stage.lab.client, address) else {
            return false;
        };
        (&client).write_all(b"x").is_ok() && (&client).read_exact(&mut [0]).is_ok()
    });
    for client in &old {
        assert_echo(client, "still there");
    }
}

/// Connections that are over, and only there for late segments, take no room.
#[test]
fn who_has_left_makes_room() {
    let stage = Stage::new("connections_max = 2");
    let _servers = stage.serve(echo);
    for address in addresses() {
        for _ in 0..6 {
            eventually("there is room", || {
                // Whoever is turned away learns of it when it connects, or right after.
                let Ok(mut client) = try_connect(&stage.lab.client, address) else {
                    return false;
                };
                let said = client.write_all(b"hello");
                said.and_then(|()| client.read_exact(&mut [0; 5])).is_ok()
            });
        }
    }
}
