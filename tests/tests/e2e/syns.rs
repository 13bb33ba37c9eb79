//! SYNs of every shape that a real client may send.

use std::io::Read as _;

use etherparse::TcpOptionElement::{
    MaximumSegmentSize, Noop, SelectiveAcknowledgementPermitted, Timestamp, WindowScale,
};
use levee_tests::{
    http,
    server::Nginx,
    sockets::{LIMIT, kernel_counter},
    topology::{Lab, host_addresses},
};
use socket2::{Domain, Socket, Type};

use crate::{
    common::{Counted, PAGE, PLAIN_PORT, PORT, lab, protect},
    raw::{Connection, Habits, Wire},
};

/// As Linux sends them.
fn all_options() -> Vec<etherparse::TcpOptionElement> {
    vec![
        MaximumSegmentSize(1460),
        SelectiveAcknowledgementPermitted,
        Timestamp(0x1234_5678, 0),
        Noop,
        WindowScale(7),
    ]
}

fn serves(habits: &Habits) {
    let lab = lab();
    let levee = protect(&lab);
    let _server = Nginx::start(&lab.host, &host_addresses(PORT)).unwrap();
    let wire = Wire::open(&lab);
    let (mut connection, offered) = Connection::open(&wire, habits, 40_000, PORT);
    let page = connection.get();
    let counted = Counted::read(&levee);
    println!("{habits:x?}\nwas offered {offered:?}\n{counted:?}");
    assert!(page.ends_with(PAGE), "{page}");
    assert_eq!(counted.sent, 1);
    counted.assert_admitted(1);
}

#[test]
fn without_any_option() {
    serves(&Habits::default());
}

#[test]
fn with_ip_options() {
    // Three times "no operation", end of options; then an empty record route of three addresses.
    let mut ip_options = vec![1, 1, 1, 0];
    serves(&Habits {
        ip_options: ip_options.clone(),
        tcp_options: vec![MaximumSegmentSize(1460)],
        ..Habits::default()
    });
    ip_options = [vec![1, 7, 15, 4], vec![0; 12]].concat();
    serves(&Habits {
        ip_options,
        tcp_options: vec![MaximumSegmentSize(1460)],
        ..Habits::default()
    });
}

#[test]
fn with_payload() {
    serves(&Habits {
        syn_payload: b"GET / HTTP/1.0\r\n\r\n".to_vec(),
        tcp_options: vec![MaximumSegmentSize(1460), SelectiveAcknowledgementPermitted],
        ..Habits::default()
    });
}

#[test]
fn with_dont_fragment_clear() {
    serves(&Habits {
        dont_fragment: false,
        tcp_options: vec![MaximumSegmentSize(1460)],
        ..Habits::default()
    });
}

#[test]
fn followed_by_data_alone() {
    serves(&Habits {
        final_ack: false,
        ..Habits::default()
    });
}

/// The kernel's own clients with the setting that clears "don't fragment".
#[test]
fn of_a_client_without_path_mtu_discovery() {
    let lab = lab();
    let levee = protect(&lab);
    let _server = Nginx::start(&lab.host, &host_addresses(PORT)).unwrap();
    lab.client.sysctl("net.ipv4.ip_no_pmtu_disc", "1").unwrap();
    let (status, body) = http::get_in(&lab.client, host_addresses(PORT)[0], "/", LIMIT).unwrap();
    assert_eq!((status, body.as_str()), (200, PAGE));
    println!("{:?}", Counted::read(&levee));
    Counted::read(&levee).assert_admitted(1);
}

/// TCP Fast Open, with data in the very first SYN (RFC 7413).
#[test]
fn of_a_fast_open_client() {
    const MSG_FASTOPEN: i32 = 0x2000_0000;
    const WITHOUT_COOKIE: &str = "5";
    let lab = lab();
    let levee = protect(&lab);
    let _server = Nginx::start(&lab.host, &host_addresses(PORT)).unwrap();
    lab.client
        .sysctl("net.ipv4.tcp_fastopen", WITHOUT_COOKIE)
        .unwrap();
    for address in host_addresses(PORT) {
        let request = b"GET / HTTP/1.0\r\n\r\n";
        let socket = lab.client.run(|| {
            let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
            socket.set_read_timeout(Some(LIMIT))?;
            socket.send_to_with_flags(request, &address.into(), MSG_FASTOPEN)?;
            Ok(socket)
        });
        let mut page = String::new();
        socket.unwrap().read_to_string(&mut page).unwrap();
        assert!(page.ends_with(PAGE), "{address}: {page}");
    }
    let counted = Counted::read(&levee);
    println!("{counted:?}");
    counted.assert_admitted(2);
    // The data was in the SYN, was not acknowledged, and was sent again at once.
    let again = kernel_counter(&lab.client, "TcpExtTCPFastOpenActiveFail");
    assert_eq!(again, 2);
}

/// Answered as the kernel would: the same SYN to a protected and to an unprotected port.
fn same_answers(lab: &Lab, what: &str) {
    let _server = Nginx::start(
        &lab.host,
        &[host_addresses(PORT), host_addresses(PLAIN_PORT)].concat(),
    )
    .unwrap();
    let wire = Wire::open(lab);
    let full = all_options();
    let option_lists = [
        full.clone(),
        full[..4].to_vec(),
        vec![full[0].clone()],
        vec![full[0].clone(), full[1].clone()],
        vec![full[0].clone(), full[4].clone()],
        vec![full[0].clone(), full[2].clone()],
        vec![],
    ];
    for (source_port, tcp_options) in (41_000..).zip(option_lists) {
        let habits = Habits {
            asks_for_ecn: tcp_options == full,
            tcp_options,
            ..Habits::default()
        };
        let answer = |port| Connection::open(&wire, &habits, source_port, port).1;
        let (levee, mut kernel) = (answer(PORT), answer(PLAIN_PORT));
        kernel.forgive(&levee, &habits);
        println!("{what}: {:?}\n  {levee:?}", habits.tcp_options);
        assert_eq!(
            levee, kernel,
            "{what}: {:?}: levee, kernel",
            habits.tcp_options
        );
    }
}

#[test]
fn are_answered_as_by_the_kernel() {
    let lab = lab();
    let _levee = protect(&lab);
    same_answers(&lab, "by default");
}

#[test]
fn are_answered_as_by_a_kernel_without_options() {
    let lab = lab();
    for name in ["timestamps", "sack", "window_scaling", "ecn"] {
        lab.host
            .sysctl(&format!("net.ipv4.tcp_{name}"), "0")
            .unwrap();
    }
    let _levee = protect(&lab);
    same_answers(&lab, "all off");
}
