//! A DNS server for tests, also those of other targets, which include this file.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::{Arc, Mutex},
    thread,
};

/// What a [`DnsServer`] does when it is asked for a name.
#[derive(Clone)]
pub(crate) enum Zone {
    /// Answers with the addresses of the family that is asked for.
    Addresses { ttl_s: u32, addresses: Vec<IpAddr> },
    /// Answers with these RCODEs (RFC 1035 4.1.1) and no address, to questions for IPv4 and IPv6.
    Codes([u8; 2]),
}

impl Zone {
    pub(crate) fn of(ttl_s: u32, addresses: &[&str]) -> Self {
        Self::Addresses {
            ttl_s,
            addresses: addresses.iter().map(|ip| ip.parse().unwrap()).collect(),
        }
    }
}

/// A DNS server (RFC 1035) on loopback, over UDP.
pub(crate) struct DnsServer {
    pub(crate) address: SocketAddr,
    zones: Arc<Mutex<HashMap<String, Zone>>>,
}

const TYPE_A: u16 = 1;
const TYPE_AAAA: u16 = 28;
pub(crate) const SERVFAIL: u8 = 2;
pub(crate) const NXDOMAIN: u8 = 3;
const HEADER_LEN: usize = 12;

impl DnsServer {
    pub(crate) fn new() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let zones = Arc::new(Mutex::new(HashMap::new()));
        let known = Arc::clone(&zones);
        // Ends with the test's process.
        thread::spawn(move || {
            let mut query = [0; 512];
            loop {
                let (len, client) = socket.recv_from(&mut query).unwrap();
                let answer = answer(&query[..len], &known.lock().unwrap());
                socket.send_to(&answer, client).unwrap();
            }
        });
        Self { address, zones }
    }

    pub(crate) fn set(&self, name: &str, zone: Zone) {
        self.zones.lock().unwrap().insert(name.into(), zone);
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
        Some(Zone::Codes(codes)) => (codes[usize::from(kind != TYPE_A)], 0, &[][..]),
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
