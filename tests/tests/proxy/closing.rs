//! However one side closes, the other sees it as it would have without levee.

use std::{
    io::{self, Read as _, Write as _},
    net::{Shutdown, TcpStream},
    os::fd::AsRawFd as _,
    sync::Barrier,
    thread,
    time::Duration,
};

use levee_tests::sockets::{eventually, read_all, reset};
use nix::libc;

use crate::common::{Stage, assert_reset};

nix::ioctl_read_bad!(siocoutq, libc::TIOCOUTQ, libc::c_int);

/// One side shuts down its direction; the other keeps flowing.
fn half_close(first: &TcpStream, second: &TcpStream) {
    const PARTS: u32 = 10;
    let part = [0x77; 10_000];
    let mut writer = first;
    writer.write_all(b"request").unwrap();
    first.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(second), b"request");
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut writer = second;
            for _ in 0..PARTS {
                writer.write_all(&part).unwrap();
                thread::sleep(Duration::from_millis(50));
            }
            second.shutdown(Shutdown::Write).unwrap();
        });
        assert!(read_all(first) == part.repeat(PARTS as usize));
    });
}

#[test]
fn half_closed_by_the_client() {
    let stage = Stage::simple("");
    let (client, server) = stage.pair(&stage.listen());
    half_close(&client, &server);
    stage.assert_nothing_left();
    assert_eq!(stage.closed("finished"), 1);
}

#[test]
fn half_closed_by_the_backend() {
    let stage = Stage::simple("");
    let (client, server) = stage.pair(&stage.listen());
    half_close(&server, &client);
    stage.assert_nothing_left();
    assert_eq!(stage.closed("finished"), 1);
}

#[test]
fn both_close_at_once() {
    const CONNECTIONS: usize = 200;
    let stage = Stage::simple("");
    let listener = stage.listen();
    for number in 0..CONNECTIONS {
        let (client, server) = stage.pair(&listener);
        let together = Barrier::new(2);
        let close = |mut end: &TcpStream| {
            end.write_all(&number.to_be_bytes()).unwrap();
            together.wait();
            end.shutdown(Shutdown::Write).unwrap();
            assert_eq!(read_all(end), number.to_be_bytes());
        };
        thread::scope(|scope| {
            scope.spawn(|| close(&client));
            scope.spawn(|| close(&server));
        });
    }
    stage.assert_nothing_left();
    assert_eq!(stage.closed("finished"), CONNECTIONS as u64);
}

/// Data and FIN in one go, many times: nothing of it is lost on the way.
#[test]
fn data_right_before_a_fin_arrives() {
    const CONNECTIONS: usize = 300;
    let stage = Stage::simple("");
    let listener = stage.listen();
    for number in 0..CONNECTIONS {
        let (mut client, mut server) = stage.pair(&listener);
        let last = vec![number as u8; 1 + number * 331 % 100_000];
        client.write_all(&last).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert!(read_all(&server) == last, "connection {number}");
        server.write_all(&last).unwrap();
        // Everything was read, so that this is a FIN.
        drop(server);
        assert!(read_all(&client) == last, "connection {number}");
    }
    stage.assert_nothing_left();
}

#[test]
fn a_reset_by_the_client_reaches_the_backend() {
    let stage = Stage::simple("");
    let (mut client, mut server) = stage.pair(&stage.listen());
    client.write_all(b"x").unwrap();
    server.read_exact(&mut [0]).unwrap();
    reset(client);
    assert_reset(&server);
    stage.assert_nothing_left();
    assert_eq!(stage.closed("client_reset"), 1);
}

#[test]
fn a_reset_by_the_backend_reaches_the_client() {
    let stage = Stage::simple("");
    let (mut client, mut server) = stage.pair(&stage.listen());
    client.write_all(b"x").unwrap();
    server.read_exact(&mut [0]).unwrap();
    reset(server);
    assert_reset(&client);
    stage.assert_nothing_left();
    assert_eq!(stage.closed("backend_reset"), 1);
}

/// Waits until the peer has acknowledged everything.
fn acknowledged(stream: &TcpStream) {
    eventually("everything acknowledged", || {
        let mut unacknowledged = -1;
        // SAFETY: the descriptor is open and the kernel writes one int.
        unsafe { siocoutq(stream.as_raw_fd(), &mut unacknowledged) }.unwrap();
        unacknowledged == 0
    });
}

/// Reads until an error; returns the bytes before it and its kind.
fn read_until_error(mut stream: &TcpStream) -> (Vec<u8>, io::ErrorKind) {
    let mut bytes = Vec::new();
    let error = stream.read_to_end(&mut bytes).unwrap_err();
    (bytes, error.kind())
}

/// What was acknowledged before a RST is delivered before the RST.
#[test]
fn data_before_a_reset_arrives_first() {
    let stage = Stage::simple("");
    let listener = stage.listen();
    for size in [1, 1_000, 30_000, 200_000] {
        let data = vec![0x33; size];
        let (client, mut server) = stage.pair(&listener);
        server.write_all(&data).unwrap();
        acknowledged(&server);
        reset(server);
        // The reader comes late, when the RST has long arrived at levee.
        thread::sleep(Duration::from_millis(200));
        let (bytes, error) = read_until_error(&client);
        assert_eq!((bytes.len(), error), (size, io::ErrorKind::ConnectionReset));
    }
    stage.assert_nothing_left();
}

/// After its FIN a client may still send RST, which a read does not show.
#[test]
fn a_reset_after_a_fin_reaches_the_backend() {
    let stage = Stage::simple("");
    let (client, mut server) = stage.pair(&stage.listen());
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&server), b"");
    reset(client);
    eventually("the backend cannot write any more", || {
        server.write_all(&[0; 1000]).is_err()
    });
    stage.assert_nothing_left();
}

/// A backend that closes with bytes unread sends RST, levee or not.
#[test]
fn a_backend_that_closes_unread_resets_the_client() {
    let stage = Stage::simple("");
    let (mut client, server) = stage.pair(&stage.listen());
    client.write_all(&[1; 100_000]).unwrap();
    eventually("something arrives", || server.peek(&mut [0]).unwrap() == 1);
    drop(server);
    assert_reset(&client);
    stage.assert_nothing_left();
}
