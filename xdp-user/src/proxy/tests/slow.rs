//! Receivers that take their time: what waits for them is neither lost nor cut short.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use socket2::{Domain, Socket, Type};

use super::support::*;
use crate::{engine::reason::CloseReason, proxy::stats::WorkerStats};

/// A client whose socket takes little.
fn narrow_client(lab: &Lab) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4 << 10).unwrap();
    socket.connect(&lab.address.into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// A backend that has closed while its bytes still wait in levee has not reset anything, even
/// though the connection to it is closed both ways by then.
#[test]
fn a_backend_that_closes_second_has_not_reset() {
    let (tell, told) = mpsc::channel::<Vec<Arc<WorkerStats>>>();
    let (backend, served) = backend(move |mut stream| {
        let request = read_all(&mut stream);
        let workers = told.recv().unwrap();
        let waits = || workers.iter().any(|worker| worker.buffered_bytes.get() > 0);
        let mut sent = 0;
        while !waits() {
            sent += 1;
            stream.write_all(&pattern(sent, 4096)).unwrap();
            thread::sleep(Duration::from_micros(100));
        }
        (request, sent)
    });
    let lab = Lab::new(options(&[backend]));
    tell.send(lab.proxy.workers()).unwrap();
    let mut client = narrow_client(&lab);
    client.write_all(b"all of it").unwrap();
    fin(&client);
    let (request, sent) = served.join().unwrap();
    assert_eq!(request, b"all of it");
    // Long enough for levee to see the backend's FIN; a busy machine only makes the test easier.
    thread::sleep(Duration::from_millis(200));
    let expected: Vec<u8> = (1..=sent).flat_map(|n| pattern(n, 4096)).collect();
    assert!(read_all(&mut client) == expected);
    lab.ends(CloseReason::Finished, 1);
}

/// What levee had received before the backend's RST reaches a client that needs longer for it
/// than levee waits for the next byte to go.
#[test]
fn a_slow_client_gets_what_was_sent_before_a_reset() {
    let (backend, served) = backend(move |mut stream| {
        stream.write_all(&pattern(2, 900_000)).unwrap();
        // Everything is in levee, or on its way to the client.
        while super::super::sockopt::unsent(std::os::fd::AsFd::as_fd(&stream)) > 0 {
            thread::sleep(Duration::from_millis(2));
        }
        rst(stream);
    });
    let lab = Lab::new(options(&[backend]));
    let mut client = narrow_client(&lab);
    served.join().unwrap();
    let mut bytes = Vec::new();
    let mut buffer = vec![0; 16 << 10];
    loop {
        match client.read(&mut buffer) {
            Ok(0) => panic!("a FIN after {} bytes, not a RST", bytes.len()),
            Ok(n) => bytes.extend_from_slice(&buffer[..n]),
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
                break;
            }
        }
        thread::sleep(Duration::from_millis(25));
    }
    lab.ends(CloseReason::BackendReset, 1);
    assert_eq!(bytes.len() as u64, lab.service().stats.bytes[1].get());
    assert!(bytes == pattern(2, bytes.len()));
}
