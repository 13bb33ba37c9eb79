//! The TCP options that client and server agree on are those that they would agree on without
//! levee, as `ss` shows them at both ends.

use std::{
    fmt,
    io::{Read as _, Write as _},
    net::SocketAddr,
};

use levee_tests::{
    netns::Netns,
    sockets::{accept, connect, listen},
    topology::{Lab, host_addresses},
};

use crate::common::{PLAIN_PORT, PORT, lab, protect};

/// What one end of a connection uses, in the words of `ss`.
#[derive(Clone, PartialEq, Eq)]
struct End {
    timestamps: bool,
    sack: bool,
    ecn: bool,
    /// Of the peer and of this end.
    window_scale: Option<String>,
    /// Largest segment that it sends, and that it expects to receive, bytes.
    mss: String,
    advertised_mss: String,
}

impl End {
    /// The end of a connection whose other end is `peer`.
    fn of(netns: &Netns, peer: SocketAddr) -> Self {
        let line = netns
            .tool(&format!("ss -tinoHO state established dst {peer}"))
            .unwrap();
        assert_eq!(line.lines().count(), 1, "one connection: {line:?}");
        let words: Vec<&str> = line.split_whitespace().collect();
        let has = |word| words.contains(&word);
        let value = |name| words.iter().find_map(|word| word.strip_prefix(name));
        Self {
            timestamps: has("ts"),
            sack: has("sack"),
            ecn: has("ecn"),
            window_scale: value("wscale:").map(str::to_owned),
            mss: value("mss:").expect("always there").to_owned(),
            advertised_mss: value("advmss:").expect("always there").to_owned(),
        }
    }
}

impl fmt::Debug for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |set, word| if set { word } else { "" };
        write!(
            f,
            "{}{}{}wscale:{} mss:{} advmss:{}",
            word(self.timestamps, "ts "),
            word(self.sack, "sack "),
            word(self.ecn, "ecn "),
            self.window_scale.as_deref().unwrap_or("none"),
            self.mss,
            self.advertised_mss
        )
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Agreed {
    server: End,
    client: End,
}

fn agreed(lab: &Lab, address: SocketAddr) -> Agreed {
    let listener = listen(&lab.host, address);
    let mut client = connect(&lab.client, address);
    let mut server = accept(&listener);
    let mut byte = [0];
    client.write_all(b"x").unwrap();
    server.read_exact(&mut byte).unwrap();
    server.write_all(&byte).unwrap();
    client.read_exact(&mut byte).unwrap();
    Agreed {
        server: End::of(&lab.host, client.local_addr().unwrap()),
        client: End::of(&lab.client, address),
    }
}

/// What is agreed on over IPv4 with levee, after checking that it is the same without, and over
/// IPv6.
fn same_as_without_levee(lab: &Lab, what: &str) -> Agreed {
    let protected = host_addresses(PORT).map(|address| agreed(lab, address));
    let plain = host_addresses(PLAIN_PORT).map(|address| agreed(lab, address));
    for (protected, plain) in protected.iter().zip(&plain) {
        println!("{what}: {protected:?}");
        assert_eq!(protected, plain, "{what}: with and without levee");
    }
    let [v4, _] = protected;
    v4
}

#[test]
fn whatever_the_client_offers_is_kept() {
    let lab = lab();
    let _levee = protect(&lab);
    let set = |name: &str, value| lab.client.sysctl(&format!("net.ipv4.tcp_{name}"), value);

    let Agreed { server, client } = same_as_without_levee(&lab, "everything");
    for end in [&server, &client] {
        assert!(end.timestamps && end.sack && !end.ecn, "{end:?}");
        assert!(end.window_scale.is_some(), "{end:?}");
    }

    set("ecn", "1").unwrap();
    let Agreed { server, client } = same_as_without_levee(&lab, "ECN asked for");
    assert!(server.ecn && client.ecn, "{server:?} {client:?}");
    set("ecn", "0").unwrap();

    set("timestamps", "0").unwrap();
    let Agreed { server, client } = same_as_without_levee(&lab, "no timestamps");
    for end in [&server, &client] {
        assert!(!end.timestamps && end.sack, "{end:?}");
        assert!(end.window_scale.is_some(), "{end:?}");
    }

    set("sack", "0").unwrap();
    let Agreed { server, .. } = same_as_without_levee(&lab, "no timestamps, no SACK");
    assert!(!server.timestamps && !server.sack, "{server:?}");
    assert!(server.window_scale.is_some(), "{server:?}");

    set("window_scaling", "0").unwrap();
    let Agreed { server, .. } = same_as_without_levee(&lab, "nothing but the MSS");
    assert_eq!(server.window_scale, None);

    set("timestamps", "1").unwrap();
    let Agreed { server, .. } = same_as_without_levee(&lab, "timestamps alone");
    assert!(server.timestamps && !server.sack, "{server:?}");
    assert_eq!(server.window_scale, None);
}

/// A host with this setting changed: nothing that it cannot do is agreed on.
fn host_with(name: &str, value: &str) -> Agreed {
    let lab = lab();
    lab.client.sysctl("net.ipv4.tcp_ecn", "1").unwrap();
    lab.host.sysctl(&format!("net.ipv4.{name}"), value).unwrap();
    let _levee = protect(&lab);
    same_as_without_levee(&lab, &format!("host with {name}={value}"))
}

#[test]
fn a_host_without_timestamps() {
    // No ECN either: the cookie has no room for it, so it needs timestamps.
    let lab = lab();
    lab.host.sysctl("net.ipv4.tcp_timestamps", "0").unwrap();
    let _levee = protect(&lab);
    let Agreed { server, client } = same_as_without_levee(&lab, "host without timestamps");
    assert!(!server.timestamps && !client.timestamps);
    assert!(server.sack && server.window_scale.is_some());
}

#[test]
fn a_host_without_sack() {
    let Agreed { server, client } = host_with("tcp_sack", "0");
    assert!(!server.sack && !client.sack);
    assert!(server.timestamps && server.window_scale.is_some());
}

#[test]
fn a_host_without_window_scaling() {
    let Agreed { server, client } = host_with("tcp_window_scaling", "0");
    assert_eq!((server.window_scale, client.window_scale), (None, None));
    assert!(server.timestamps && server.sack);
}

#[test]
fn a_host_without_ecn() {
    let Agreed { server, client } = host_with("tcp_ecn", "0");
    assert!(!server.ecn && !client.ecn);
}

#[test]
fn a_host_with_large_buffers() {
    let Agreed { client, .. } = host_with("tcp_rmem", "4096 1048576 134217728");
    let scale = client.window_scale.expect("windows are scaled");
    assert!(
        scale.starts_with("12,"),
        "128 MiB are 2^15 windows of 2^12: {scale}"
    );
}
