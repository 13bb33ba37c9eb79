//! Receivers that take their time: what waits for them is neither lost nor cut short.

use std::{
    future::poll_fn,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{Arc, mpsc},
    task::Poll,
    thread,
    time::Duration,
};

use socket2::{Domain, Socket, Type};
use tokio::runtime::Builder;

use super::support::*;
use crate::{
    engine::reason::CloseReason,
    proxy::{
        leg::{Failure, Got, Leg},
        stats::WorkerStats,
    },
};

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

/// A client that has closed is in CLOSE_WAIT, and reaped in time, even while its bytes cannot be
/// passed on.
#[test]
fn a_client_that_closed_does_not_wait_for_ever_for_a_backend_that_reads_nothing() {
    let (end, ended) = mpsc::channel::<()>();
    let (backend, served) = backend(move |_stream| ended.recv().is_err());
    let mut options = options(&[backend]);
    options.timeouts.close_wait_ms = 300;
    let lab = Lab::new(options);
    let mut client = lab.connect();
    let workers = lab.proxy.workers();
    while workers
        .iter()
        .all(|worker| worker.buffered_bytes.get() == 0)
    {
        client.write_all(&[1; 4096]).unwrap();
        thread::sleep(Duration::from_micros(100));
    }
    fin(&client);
    lab.ends(CloseReason::CloseWaitTimeout, 1);
    drop(end);
    assert!(served.join().unwrap());
}

/// That a leg broke may be known from a write before the event comes that tells of bytes.
#[test]
fn what_came_before_a_reset_is_read_without_an_event() {
    let listener = TcpListener::bind(address()).unwrap();
    let mut peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (socket, _) = listener.accept().unwrap();
    socket.set_nonblocking(true).unwrap();
    let runtime = Builder::new_current_thread().enable_io().build().unwrap();
    runtime.block_on(async {
        let mut leg = Leg::connected(socket.into()).unwrap();
        let mut buffer = [0; 64];
        peer.write_all(b"first").unwrap();
        poll_fn(|cx| leg.poll_readable(cx)).await;
        assert_eq!(leg.read(&mut buffer), Got::Bytes(5));
        poll_fn(|cx| {
            assert!(leg.poll_readable(cx).is_pending());
            peer.write_all(b"last words").unwrap();
            Poll::Ready(())
        })
        .await;
        rst(peer);
        // Nothing here lets the runtime look at its sockets.
        until(|| leg.write(b"x") == Got::Broken(Failure::Reset));
        poll_fn(|cx| {
            assert!(leg.poll_readable(cx).is_ready());
            Poll::Ready(())
        })
        .await;
        assert_eq!(leg.read(&mut buffer), Got::Bytes(10));
        assert_eq!(&buffer[..10], b"last words");
        assert_eq!(leg.read(&mut buffer), Got::Broken(Failure::Reset));
    });
}
