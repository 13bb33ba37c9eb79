//! Slow readers, idle connections, and time that nobody uses.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    os::fd::AsRawFd as _,
    sync::mpsc,
    thread,
    time::Duration,
};

use nix::sys::{
    resource::{Resource, UsageWho, getrlimit, getrusage, setrlimit},
    time::TimeValLike as _,
};
use socket2::{Domain, Socket, Type};

use super::support::*;
use crate::{
    config::{Prefix, ProxyGlobals, ProxyService},
    engine::{
        reason::{CloseReason, Refusal},
        tcp::TcpState,
    },
};

/// Sends [`stream`] to somebody who does not read until nothing moves any more; returns how much of
/// each was taken.
fn stuff(clients: &mut [TcpStream]) -> Vec<usize> {
    let bytes = stream(0, 1 << 20);
    let mut sent = vec![0; clients.len()];
    let mut idle_rounds = 0;
    for client in &*clients {
        client.set_nonblocking(true).unwrap();
    }
    while idle_rounds < 150 {
        idle_rounds += 1;
        for (client, sent) in clients.iter_mut().zip(&mut sent) {
            while let Ok(n) = client.write(&bytes[*sent % PERIOD..]) {
                *sent += n;
                idle_rounds = 0;
            }
        }
        thread::sleep(Duration::from_millis(2));
    }
    for client in &*clients {
        client.set_nonblocking(false).unwrap();
    }
    sent
}

/// After as many bytes the stream begins again. No power of two, so that no buffer's length hides
/// that one was lost or came twice.
const PERIOD: usize = 65_521;

/// Bytes of an endless stream, from a place on.
fn stream(from: usize, len: usize) -> Vec<u8> {
    let start = from % PERIOD;
    let mut bytes = pattern(1, PERIOD).repeat((start + len).div_ceil(PERIOD));
    bytes.truncate(start + len);
    bytes.split_off(start)
}

/// Reads `len` bytes, which have to be the stream's.
#[track_caller]
fn read_stream(client: &mut TcpStream, len: usize) {
    let mut received = vec![0; len];
    client.read_exact(&mut received).unwrap();
    assert!(received == stream(0, len), "{len} bytes came changed");
}

fn waiting(lab: &Lab) -> u64 {
    let workers = lab.proxy.workers();
    workers.iter().map(|w| w.buffered_bytes.get()).sum()
}

#[test]
fn a_slow_reader_holds_up_its_sender_and_not_memory() {
    let (read, told) = mpsc::channel();
    let (backend, served) = backend(move |mut stream| {
        // Not after a while: on a busy machine the sender might then never find it full.
        told.recv().unwrap();
        read_all(&mut stream)
    });
    let lab = Lab::new(options(&[backend]));
    let mut clients = [lab.connect()];
    let sent = stuff(&mut clients)[0];
    assert!(waiting(&lab) <= 256 << 10, "{} bytes wait", waiting(&lab));
    read.send(()).unwrap();
    let [mut client] = clients;
    fin(&client);
    assert_eq!(read_all(&mut client), b"");
    assert!(served.join().unwrap() == stream(0, sent));
    lab.ends(CloseReason::Finished, 1);
}

#[test]
fn as_many_bytes_wait_as_may_and_no_more() {
    // A small part of what eight clients leave of their last reads, some of which leave little.
    const MAX: u64 = 64 << 10;
    for pipes_max in [0, 64] {
        let globals = ProxyGlobals {
            workers: Some(1),
            buffer_bytes_max: MAX,
            pipes_max,
            ..ProxyGlobals::default()
        };
        let lab = Lab::with(&globals, options(&[echo_server()]));
        let mut clients: Vec<_> = (0..8).map(|_| lab.connect()).collect();
        let sent = stuff(&mut clients);
        // Whoever found it not full yet may add one read.
        assert!(waiting(&lab) <= MAX + (256 << 10), "{}", waiting(&lab));
        let full = lab.proxy.workers()[0].buffer_full.get();
        assert!(full > 0, "the bound was not reached");
        // Everybody gets on who reads, whoever else does not.
        for (client, sent) in clients.iter_mut().zip(sent) {
            read_stream(client, sent);
        }
        drop(clients);
        lab.nothing_left();
    }
}

/// CPU time that this process uses while nothing happens, of one second.
fn idle_cpu() -> Duration {
    let used = || {
        let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
        let us = (usage.user_time() + usage.system_time()).num_microseconds();
        Duration::from_micros(us as u64)
    };
    // Whatever was begun ends first.
    thread::sleep(Duration::from_millis(300));
    let before = used();
    thread::sleep(Duration::from_secs(1));
    used() - before
}

/// A loop that spins takes a whole second; what is due every second takes no hundredth of that.
const IDLE_CPU_MAX: Duration = Duration::from_millis(100);

#[test]
fn connections_where_nothing_happens_take_no_time() {
    if !alone(&format!(
        "{}::connections_where_nothing_happens_take_no_time",
        module_path!()
    )) {
        return;
    }
    let hole = BlackHole::new();
    let patient = |mut options: ProxyService| {
        options.timeouts.connect_ms = 60_000;
        options.timeouts.header_ms = 60_000;
        options
    };
    let echo = Lab::new(patient(options(&[echo_server()])));
    let connecting = Lab::new(patient(options(&[hole.address])));
    let mut behind = options(&[echo_server()]);
    behind.accept_proxy = vec![Prefix::new([127, 0, 0, 0].into(), 8).unwrap()];
    let behind = Lab::new(patient(behind));

    let idle = echo.connect();
    // The backend of this one closes, the client does not; and the other way round.
    let (closing, _closed) = backend(|stream| {
        fin(&stream);
        stream
    });
    let closing = Lab::new(patient(options(&[closing])));
    let half_closed = closing.connect();
    let (silent, _silent) = backend(|stream| stream);
    let silent = Lab::new(patient(options(&[silent])));
    let half_closing = silent.connect();
    fin(&half_closing);
    // Both directions stuck, and one with a FIN behind.
    let mut stuck = [echo.connect(), echo.connect()];
    stuff(&mut stuck);
    fin(&stuck[1]);
    let mut waiting = [
        connecting.connect(),
        connecting.connect(),
        connecting.connect(),
    ];
    waiting[1].write_all(b"x").unwrap();
    fin(&waiting[2]);
    let mut header = behind.connect();
    header.write_all(b"PROXY TCP4 ").unwrap();

    let used = idle_cpu();
    let now = [&echo, &connecting, &behind, &closing, &silent].map(|lab| lab.proxy.connections());
    assert_eq!(now, [3, 3, 1, 1, 1]);
    assert!(used < IDLE_CPU_MAX, "{used:?}");
    drop((idle, half_closed, half_closing, stuck, waiting, header));
}

#[test]
fn without_file_descriptors_clients_are_reset_and_nothing_spins() {
    if !alone(&format!(
        "{}::without_file_descriptors_clients_are_reset_and_nothing_spins",
        module_path!()
    )) {
        return;
    }
    let lab = Lab::new(options(&[echo_server()]));
    let socket = || Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let mut clients: Vec<_> = (0..60).map(|_| socket()).collect();
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    // The next descriptor would be one too many.
    let next = socket().as_raw_fd() as u64;
    setrlimit(Resource::RLIMIT_NOFILE, next, hard).unwrap();
    for client in &mut clients {
        client.connect(&lab.address.into()).unwrap();
    }
    let stats = &lab.service().stats;
    let count = |reason: Refusal| stats.refused[reason.index()].get();
    // A descriptor that lay free below the limit lets a few be accepted, whose backends then lack
    // one; and other threads of this process may take it.
    until(|| count(Refusal::FdsExhausted) + lab.closed(CloseReason::FdsExhausted) >= 30);
    let used = idle_cpu();
    assert!(used < IDLE_CPU_MAX, "{used:?}");

    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    drop(clients);
    lab.nothing_left();
    let mut client = lab.connect();
    client.write_all(b"x").unwrap();
    fin(&client);
    assert_eq!(read_all(&mut client), b"x");
}

#[test]
fn an_idle_connection_takes_little_memory() {
    if !alone(&format!(
        "{}::an_idle_connection_takes_little_memory",
        module_path!()
    )) {
        return;
    }
    const COUNT: usize = 1_000;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    // A backend that costs this process nothing but sockets.
    let listener = std::net::TcpListener::bind(address()).unwrap();
    let lab = Lab::new(options(&[listener.local_addr().unwrap()]));
    let mut peers = Vec::with_capacity(2 * (COUNT + 10));
    let mut open = |count: usize| {
        for _ in 0..count {
            peers.push(lab.connect());
            peers.push(listener.accept().unwrap().0);
        }
        until(|| lab.in_state(TcpState::Established) == peers.len() as u64);
    };
    open(10);
    let before = resident();
    open(COUNT);
    let each = (resident() - before) / COUNT;
    println!("{each} bytes a connection");
    assert!(each <= 8 << 10, "{each} bytes a connection");
    let workers = lab.proxy.workers();
    let pipes: u64 = workers
        .iter()
        .map(|w| w.pipes_in_use.get() + w.pipes_idle.get())
        .sum();
    assert_eq!((pipes, waiting(&lab)), (0, 0));
}

/// Resident memory of this process, bytes.
fn resident() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = pages.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}
