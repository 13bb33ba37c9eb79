use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{runtime::Builder, time::sleep};

use super::{leaking_server::LeakingServer, *};
use crate::netlink::namespace::{in_namespace, tool};

/// How long anything that should happen soon may take: the machine may be busy with other tests.
const SOON: Duration = Duration::from_secs(60);

fn watched(name: &str, address: SocketAddr, limit: Option<Duration>) -> Arc<Watched> {
    Arc::new(Watched {
        name: name.into(),
        address,
        reap_close_wait: limit,
        stats: Arc::default(),
    })
}

/// Runs [`run`] until something is so.
fn run_until(services: &[Arc<Watched>], what: &str, mut condition: impl FnMut() -> bool) {
    let (_keep, receiver) = watch::channel(services.to_vec());
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let running = tokio::spawn(run(receiver));
        let start = Instant::now();
        while !condition() {
            assert!(start.elapsed() < SOON, "in vain: {what}");
            assert!(!running.is_finished(), "{:?}", running.await);
            sleep(Duration::from_millis(50)).await;
        }
        running.abort();
    });
}

fn count(states: &StateFlags, address: SocketAddr) -> usize {
    let mut count = 0;
    Sockets::open()
        .unwrap()
        .dump(states, Some(address.port()), |row| {
            count += usize::from(row.local == address);
        })
        .unwrap();
    count
}

fn connect(address: SocketAddr, connections: usize) -> Vec<TcpStream> {
    let connect = || TcpStream::connect(address).unwrap();
    (0..connections).map(|_| connect()).collect()
}

fn echo(stream: &mut TcpStream) {
    stream.write_all(b"alive").unwrap();
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"alive");
}

/// Clients that have closed their direction wait for the server's FIN, and get a RST instead.
fn assert_reset(mut client: TcpStream) {
    let error = client.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn samples_rest_as_they_took() {
    let period = |ms| sample_period(Duration::from_millis(ms));
    assert_eq!(period(1), SAMPLE_PERIOD[0]);
    assert_eq!(period(100), Duration::from_secs(20));
    assert_eq!(period(1_000), SAMPLE_PERIOD[1]);
}

#[test]
fn leaked_connections_are_ended_by_the_deadline_and_healthy_ones_stay() {
    in_namespace(|| {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
        let _server = LeakingServer::start(&["127.0.0.1:8080", "127.0.0.1:8081"]);
        let [leaking, tolerated] =
            [8080, 8081].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let own_listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let own = own_listener.local_addr().unwrap();

        let mut healthy = connect(leaking, 100);
        healthy.iter_mut().for_each(echo);
        let leaked = connect(leaking, 1000);
        let others = connect(tolerated, 10);
        let mine = connect(own, 1);
        let _accepted = own_listener.accept().unwrap();
        for client in leaked.iter().chain(&others).chain(&mine) {
            client.shutdown(std::net::Shutdown::Write).unwrap();
        }
        let close_wait = StateFlags::CLOSE_WAIT;
        assert_eq!(count(&close_wait, leaking), 1000);

        let limit = Duration::from_secs(4);
        let services = [
            watched("leaking", leaking, Some(limit)),
            watched("tolerated", tolerated, None),
            watched("own", own, Some(Duration::from_secs(1))),
        ];
        let [stats, tolerated_stats, own_stats] = services.each_ref().map(|s| &s.stats);
        let start = Instant::now();
        let mut first = None;
        run_until(&services, "all are ended", || {
            let reaped = stats.reaped_close_wait.get();
            if reaped > 0 {
                first.get_or_insert_with(|| start.elapsed());
            }
            reaped == 1000
        });
        assert!(first.unwrap() >= limit, "{first:?}");
        assert_eq!(count(&close_wait, leaking), 0);
        leaked.into_iter().for_each(assert_reset);

        assert_eq!(count(&StateFlags::ESTABLISHED, leaking), 100);
        healthy.iter_mut().for_each(echo);
        assert_eq!(count(&close_wait, tolerated), 10);
        assert_eq!(tolerated_stats.reaped_close_wait.get(), 0);
        assert_eq!(count(&close_wait, own), 1);
        assert_eq!(own_stats.reaped_close_wait.get(), 0);
    });
}

/// Sends a SYN whose SYN-ACK nobody answers.
fn lonely_syn(source: [u8; 4], port: u16, destination: [u8; 4], destination_port: u16) {
    let mut tcp = [0; 20];
    tcp[0..2].copy_from_slice(&port.to_be_bytes());
    tcp[2..4].copy_from_slice(&destination_port.to_be_bytes());
    // Five words of header; SYN; a window.
    tcp[12] = 5 << 4;
    tcp[13] = 2;
    tcp[14] = 0xff;
    let pseudo = [0, 6, 0, tcp.len() as u8];
    let summed = [&source[..], &destination, &pseudo, &tcp].concat();
    let mut sum: u32 = summed
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    tcp[16..18].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    // Version and length; TTL, TCP. The kernel fills in length, identification and checksum.
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 6, 0, 0];
    packet.extend(source);
    packet.extend(destination);
    packet.extend(tcp);
    // IPPROTO_RAW: the header is in what is sent.
    let raw = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255))).unwrap();
    let to = SocketAddr::from((destination, 0));
    raw.send_to(&packet, &to.into()).unwrap();
}

#[test]
fn half_open_connections_in_the_kernel_are_counted_by_service() {
    in_namespace(|| {
        tool("ip", "addr add 192.0.2.1/32 dev lo");
        tool("ip", "link add lv0 type veth peer name lv1");
        tool("ip", "link set lv0 up");
        tool("ip", "link set lv1 up");
        tool("ip", "addr add 198.51.100.1/24 dev lv0");
        for host in [7, 8] {
            // Where no neighbour answers, the kernel forgets the SYN after 3 s.
            tool(
                "ip",
                &format!("neigh add 198.51.100.{host} lladdr 02:00:00:00:00:01 dev lv0"),
            );
        }
        let first = TcpListener::bind("192.0.2.1:80").unwrap();
        let both_families = TcpListener::bind("[::]:81").unwrap();
        for port in 1000..1005 {
            lonely_syn([198, 51, 100, 7], port, [192, 0, 2, 1], 80);
        }
        for port in 1000..1003 {
            lonely_syn([198, 51, 100, 8], port, [192, 0, 2, 1], 81);
        }
        let services = [
            watched("a", first.local_addr().unwrap(), None),
            watched("b", "192.0.2.1:81".parse().unwrap(), None),
            watched("c", "192.0.2.1:82".parse().unwrap(), None),
        ];
        let depths = || services.each_ref().map(|s| s.stats.syn_recv.get());
        run_until(&services, "they are counted", || depths() == [5, 3, 0]);
        // At the second sample the oldest is as old as the first sample.
        let oldest = || services[0].stats.syn_recv_oldest_ms.get();
        run_until(&services, "they grow old", || oldest() >= 4_900);
        drop((first, both_families));
        run_until(&services, "they are gone", || depths() == [0, 0, 0]);
        assert_eq!(oldest(), 0);
    });
}
