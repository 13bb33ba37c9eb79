//! What the tests here share: services, and a DNS server.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    net::UdpSocket,
    task::AbortHandle,
    time::{Instant, sleep},
};

use crate::{
    config::{Config, Service},
    engine::Tick,
    proxy::runtime::ServiceRuntime,
};

/// How long anything that should happen soon may take: the machine may be busy with other tests.
const SOON: Duration = Duration::from_secs(30);

/// A service with these keys and tables, and backends at these addresses.
pub(super) fn service(keys: &str, backends: &[&str]) -> Service {
    let backends: String = backends
        .iter()
        .map(|address| format!("[[service.backend]]\naddress = \"{address}\"\n"))
        .collect();
    let text = format!(
        "[[interface]]\nname = \"eth0\"\n[[service]]\nname = \"web\"\naddress = \
         \"192.0.2.10:443\"\nmode = \"proxy\"\n{keys}\n{backends}"
    );
    let config = Config::parse("levee.toml", &text).unwrap();
    config.services.into_iter().next().unwrap()
}

/// The service as it runs from the start.
pub(super) fn runtime(keys: &str, backends: &[&str]) -> Arc<ServiceRuntime> {
    let service = service(keys, backends);
    Arc::new(ServiceRuntime::new(&service, None, Tick(0)).unwrap())
}

/// Addresses of the backends in force.
pub(super) fn addresses(service: &ServiceRuntime) -> Vec<String> {
    let pool = service.pool.load();
    let addresses = pool.backends.iter().map(|backend| backend.address);
    addresses.map(|address| address.to_string()).collect()
}

/// Waits until something is so.
pub(super) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !condition() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// What a [`DnsServer`] does when it is asked for a name.
#[derive(Clone)]
pub(super) enum Zone {
    /// Answers with the addresses of the family that is asked for.
    Addresses { ttl_s: u32, addresses: Vec<IpAddr> },
    /// Answers SERVFAIL to questions for IPv4, and with no address to those for IPv6.
    FailsForIpv4,
    /// Answers with this RCODE (RFC 1035 4.1.1).
    Code(u8),
}

impl Zone {
    pub(super) fn of(ttl_s: u32, addresses: &[&str]) -> Self {
        Self::Addresses {
            ttl_s,
            addresses: addresses.iter().map(|ip| ip.parse().unwrap()).collect(),
        }
    }
}

/// A DNS server (RFC 1035) on loopback, over UDP.
pub(super) struct DnsServer {
    pub(super) address: SocketAddr,
    zones: Arc<Mutex<HashMap<String, Zone>>>,
    task: AbortHandle,
}

const TYPE_A: u16 = 1;
const TYPE_AAAA: u16 = 28;
const SERVFAIL: u8 = 2;
pub(super) const NXDOMAIN: u8 = 3;
const HEADER_LEN: usize = 12;

impl DnsServer {
    pub(super) async fn new() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let zones = Arc::new(Mutex::new(HashMap::new()));
        let known = Arc::clone(&zones);
        let task = tokio::spawn(async move {
            let mut query = [0; 512];
            loop {
                let (len, client) = socket.recv_from(&mut query).await.unwrap();
                let answer = answer(&query[..len], &known.lock().unwrap());
                socket.send_to(&answer, client).await.unwrap();
            }
        });
        Self {
            address,
            zones,
            task: task.abort_handle(),
        }
    }

    pub(super) fn set(&self, name: &str, zone: Zone) {
        self.zones.lock().unwrap().insert(name.into(), zone);
    }
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn answer(query: &[u8], zones: &HashMap<String, Zone>) -> Vec<u8> {
    let mut labels = Vec::new();
    let mut at = HEADER_LEN;
    while query[at] != 0 {
        let end = at + 1 + usize::from(query[at]);
        labels.push(String::from_utf8(query[at + 1..end].to_vec()).unwrap());
        at = end;
    }
    let kind = u16::from_be_bytes([query[at + 1], query[at + 2]]);
    let question = &query[HEADER_LEN..at + 5];
    let (code, ttl_s, addresses) = match zones.get(&labels.join(".").to_lowercase()) {
        Some(Zone::Addresses { ttl_s, addresses }) => (0, *ttl_s, addresses.as_slice()),
        Some(Zone::FailsForIpv4) if kind == TYPE_A => (SERVFAIL, 0, &[][..]),
        Some(Zone::FailsForIpv4) => (0, 0, &[][..]),
        Some(Zone::Code(code)) => (*code, 0, &[][..]),
        None => (NXDOMAIN, 0, &[][..]),
    };
    let records: Vec<u8> = addresses
        .iter()
        .filter_map(|ip| match ip {
            IpAddr::V4(ip) if kind == TYPE_A => Some(ip.octets().to_vec()),
            IpAddr::V6(ip) if kind == TYPE_AAAA => Some(ip.octets().to_vec()),
            _ => None,
        })
        .flat_map(|data| {
            // The name is where the question has it (RFC 1035 4.1.4); the class is IN.
            let mut record = vec![0xc0, HEADER_LEN as u8];
            record.extend(kind.to_be_bytes());
            record.extend(1_u16.to_be_bytes());
            record.extend(ttl_s.to_be_bytes());
            record.extend((data.len() as u16).to_be_bytes());
            record.extend(data);
            record
        })
        .collect();
    let record_len = HEADER_LEN + if kind == TYPE_A { 4 } else { 16 };
    // A response, recursion desired and available.
    let mut answer = vec![query[0], query[1], 0x81, 0x80 | code, 0, 1, 0];
    answer.push((records.len() / record_len) as u8);
    answer.extend([0; 4]);
    answer.extend(question);
    answer.extend(records);
    answer
}
