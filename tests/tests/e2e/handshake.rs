//! The moments around the handshake: lost segments, servers that speak first, ports used again.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, Shutdown, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use levee_tests::{
    abi::tcp_flag,
    http,
    levee::Levee,
    server::Nginx,
    sockets::{LIMIT, Server, connect, eventually, kernel_counter},
    switch::{Direction, LossRule, Payload},
    topology::{CLIENT_V4, CLIENT_V6, Lab, host_addresses},
};
use socket2::{Domain, Socket, Type};

use crate::common::{Counted, PAGE, PLAIN_PORT, PORT, lab, passed, protect};

/// The client takes the connection for open; the server hears of it with the first data.
#[test]
fn the_final_ack_is_lost() {
    let mut lab = lab();
    let levee = protect(&lab);
    let _server = Nginx::start(&lab.host, &host_addresses(PORT)).unwrap();
    let final_ack = LossRule {
        flags_mask: tcp_flag::SYN | tcp_flag::ACK | tcp_flag::RST | tcp_flag::FIN,
        flags: tcp_flag::ACK,
        payload: Payload::Empty,
        skip: 0,
        drop: 1,
    };
    for (lost, address) in (1..).zip(host_addresses(PORT)) {
        lab.switch
            .set_loss(Direction::ToHost, Some(final_ack))
            .unwrap();
        let start = Instant::now();
        let (status, body) = http::get_in(&lab.client, address, "/", LIMIT).unwrap();
        println!("{address}: page after {:?}", start.elapsed());
        assert_eq!((status, body.as_str()), (200, PAGE));
        assert_eq!(lab.switch.counters().unwrap().lost, lost);
    }
    let counted = Counted::read(&levee);
    println!("{counted:?}");
    counted.assert_admitted(2);
}

/// Checks how many segments the client sends again when it makes connections to a protected and to
/// an unprotected port: next to none. A busy machine may delay an answer until the client repeats
/// itself, but not often.
fn assert_nothing_is_sent_again(
    lab: &Lab,
    levee: &Levee,
    what: &str,
    connection: impl Fn(SocketAddr),
) {
    const CONNECTIONS: u64 = 100;
    let count = |port| {
        let before = kernel_counter(&lab.client, "TcpRetransSegs");
        for _ in 0..CONNECTIONS {
            connection(host_addresses(port)[0]);
        }
        kernel_counter(&lab.client, "TcpRetransSegs") - before
    };
    let (without, with) = (count(PLAIN_PORT), count(PORT));
    let counted = Counted::read(levee);
    println!(
        "{what}: {CONNECTIONS} connections, {with} segments sent again, {without} without levee"
    );
    println!("{counted:?}");
    assert_eq!(counted.admitted, CONNECTIONS);
    assert!(with <= without + CONNECTIONS / 10);
}

/// The first data often arrives in one batch with the handshake's last ACK, before the kernel has
/// made a socket of that. On this link nothing is lost, so nothing needs to be sent twice.
#[test]
fn requests_right_behind_the_final_ack_are_not_lost() {
    let lab = lab();
    let levee = protect(&lab);
    let addresses = [PLAIN_PORT, PORT].map(|port| host_addresses(port)[0]);
    let _server = Nginx::start(&lab.host, &addresses).unwrap();
    assert_nothing_is_sent_again(&lab, &levee, "requests", |address| {
        http::get_in(&lab.client, address, "/", LIMIT).unwrap();
    });
}

/// As above, with more than one segment of data.
#[test]
fn uploads_right_behind_the_final_ack_are_not_lost() {
    let upload = vec![b'x'; 10_000];
    let lab = lab();
    let levee = protect(&lab);
    let _servers = [PLAIN_PORT, PORT].map(|port| {
        Server::start(&lab.host, host_addresses(port)[0], |mut stream| {
            let received = io::copy(&mut stream, &mut io::sink())?;
            writeln!(stream, "{received}")
        })
    });
    assert_nothing_is_sent_again(&lab, &levee, "uploads", |address| {
        let mut stream = connect(&lab.client, address);
        stream.write_all(&upload).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut received = String::new();
        stream.read_to_string(&mut received).unwrap();
        assert_eq!(received.trim(), upload.len().to_string());
    });
}

/// How long a client waits for the first byte of a server that speaks first.
fn banner_after(lab: &Lab, address: SocketAddr) -> Duration {
    let start = Instant::now();
    let mut stream = connect(&lab.client, address);
    let mut banner = [0; 6];
    stream.read_exact(&mut banner).unwrap();
    assert_eq!(&banner, b"hello\n");
    start.elapsed()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// The usual fault of SYN proxies is a wrong first ACK, and a banner that waits for the server's
/// retransmission, a second later.
#[test]
fn a_banner_is_not_late() {
    const ROUNDS: usize = 20;
    const SLACK: Duration = Duration::from_millis(500);
    let lab = lab();
    let _levee = protect(&lab);
    for (protected, plain) in host_addresses(PORT)
        .into_iter()
        .zip(host_addresses(PLAIN_PORT))
    {
        let _servers = [protected, plain].map(|address| {
            Server::start(&lab.host, address, |mut stream| {
                stream.write_all(b"hello\n")
            })
        });
        let (mut with, mut without) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            with.push(banner_after(&lab, protected));
            without.push(banner_after(&lab, plain));
        }
        let (with, without) = (median(with), median(without));
        println!("{protected}: banner after {with:?} with levee, {without:?} without (medians)");
        assert!(with < without + SLACK);
    }
}

fn connect_from(lab: &Lab, source: SocketAddr, target: SocketAddr) -> TcpStream {
    let stream = lab.client.run(|| {
        let socket = Socket::new(Domain::for_address(source), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&source.into())?;
        socket.set_read_timeout(Some(LIMIT))?;
        socket.connect_timeout(&target.into(), LIMIT)?;
        Ok(TcpStream::from(socket))
    });
    stream.unwrap_or_else(|error| panic!("{source} to {target}: {error:#}"))
}

/// The server closes first and keeps the old connection in TIME_WAIT; only that can answer the
/// next SYN of the same port.
fn port_is_used_again(lab: &Lab, source_ip: IpAddr, target: SocketAddr) {
    const ROUNDS: usize = 5;
    let _server = Server::start(&lab.host, target, |mut stream| {
        stream.write_all(b"bye\n")?;
        stream.shutdown(Shutdown::Write)?;
        io::copy(&mut stream, &mut io::sink()).map(drop)
    });
    let mut closed = None;
    for round in 0..ROUNDS {
        let gap = closed.map(|closed: Instant| closed.elapsed());
        let start = Instant::now();
        let mut stream = connect_from(lab, SocketAddr::new(source_ip, 40_000), target);
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        println!(
            "{source_ip}: round {round}, {gap:?} after the last, took {:?}",
            start.elapsed()
        );
        assert_eq!(text, "bye\n");
        drop(stream);
        closed = Some(Instant::now());
        eventually("the server's end is in TIME_WAIT", || {
            let port = target.port();
            let filter = format!("ss -tnH state time-wait sport = :{port}");
            !lab.host.tool(&filter).unwrap().is_empty()
        });
    }
}

#[test]
fn a_port_is_used_again_at_once() {
    let lab = lab();
    let levee = protect(&lab);
    let [v4, v6] = host_addresses(PORT);
    port_is_used_again(&lab, CLIENT_V4.into(), v4);
    port_is_used_again(&lab, CLIENT_V6.into(), v6);
    let met = passed(&levee, "syn_to_closing");
    let counted = Counted::read(&levee);
    println!("{met} SYNs met a closing connection; {counted:?}");
    assert!(met > 0);
}

/// What is in TIME_WAIT when levee starts, levee has not seen closing.
#[test]
fn a_port_is_used_again_across_a_start() {
    let lab = lab();
    let service = host_addresses(PORT)[0];
    let _server = Server::start(&lab.host, service, |mut stream| {
        stream.write_all(b"bye\n")?;
        stream.shutdown(Shutdown::Write)?;
        io::copy(&mut stream, &mut io::sink()).map(drop)
    });
    let fetch = || {
        let mut stream = connect_from(&lab, SocketAddr::new(CLIENT_V4.into(), 40_000), service);
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert_eq!(text, "bye\n");
    };
    fetch();
    eventually("the server's end is in TIME_WAIT", || {
        let filter = format!("ss -tnH state time-wait sport = :{PORT}");
        !lab.host.tool(&filter).unwrap().is_empty()
    });
    let levee = protect(&lab);
    fetch();
    assert!(passed(&levee, "syn_to_closing") > 0);
}

#[test]
fn a_port_is_used_again_without_timestamps() {
    let lab = lab();
    lab.client.sysctl("net.ipv4.tcp_timestamps", "0").unwrap();
    let _levee = protect(&lab);
    port_is_used_again(&lab, CLIENT_V4.into(), host_addresses(PORT)[0]);
}
