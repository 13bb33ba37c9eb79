//! On a veth pair in a network namespace. What comes in through a socket needs a program that hands
//! it over: the live tests have one.

use std::{
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, recv},
};

use super::*;
use crate::netlink::{
    link::{Link, links},
    namespace::{in_namespace, tool},
};

/// Ethernet's type for experiments (IEEE 802): nobody answers such frames.
const ETH_P_EXPERIMENT: u16 = 0x88b5;

fn veth() -> [Link; 2] {
    tool(
        "ip",
        "link add xa numrxqueues 2 numtxqueues 2 type veth peer name xb",
    );
    for name in ["xa", "xb"] {
        tool("ip", &format!("link set {name} up"));
    }
    let links = links().unwrap();
    ["xa", "xb"].map(|name| links.iter().find(|l| l.name == name).unwrap().clone())
}

/// A packet socket that sees the experiment's frames on an interface.
fn observer(link: &Link) -> OwnedFd {
    let protocol = ETH_P_EXPERIMENT.to_be();
    // SAFETY: takes no pointers.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW, protocol.into()) };
    // SAFETY: the descriptor is new.
    let fd = unsafe { OwnedFd::from_raw_fd(Errno::result(fd).unwrap()) };
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: protocol,
        sll_ifindex: link.index as i32,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let (pointer, len) = (std::ptr::from_ref(&address), size_of_val(&address));
    // SAFETY: the kernel reads the address, as long as it is.
    let bound = unsafe { libc::bind(fd.as_raw_fd(), pointer.cast(), len as u32) };
    Errno::result(bound).unwrap();
    fd
}

fn frame(number: u32) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend([2, 0, 0, 0, 0, 1]);
    frame.extend(ETH_P_EXPERIMENT.to_be_bytes());
    frame.extend(number.to_be_bytes());
    frame.resize(60 + number as usize % 400, number as u8);
    frame
}

/// Reads one frame; `None` if none comes.
fn observed(observer: &OwnedFd) -> Option<Vec<u8>> {
    let deadline = Instant::now() + Duration::from_secs(5);
    let mut buffer = [0; CHUNK];
    loop {
        match recv(observer.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(len) => return Some(buffer[..len].to_vec()),
            Err(Errno::EAGAIN) if Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(1));
            }
            Err(Errno::EAGAIN) => return None,
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn frames_leave_in_order_and_unchanged() {
    in_namespace(|| {
        let [a, b] = veth();
        let mut socket = XskSocket::open(&a, 0).unwrap();
        let observer = observer(&b);
        let mut next = 0;
        // More than the ring has, so that every chunk is used again.
        while next < 3 * SEND_FRAMES {
            // More than one system call sends.
            let first = next;
            for number in first..first + 100 {
                assert!(socket.send(&frame(number)), "{number}");
            }
            next += 100;
            socket.flush();
            for number in first..next {
                assert_eq!(observed(&observer), Some(frame(number)), "{number}");
            }
        }
        assert!(!socket.is_sending());
        let counts = socket.counts().unwrap();
        assert_eq!((counts.sent, counts.send_full), (u64::from(next), 0));
    });
}

#[test]
fn what_does_not_fit_is_dropped_and_counted() {
    in_namespace(|| {
        let [a, _] = veth();
        let mut socket = XskSocket::open(&a, 0).unwrap();
        for number in 0..3 * SEND_FRAMES {
            assert!(socket.send(&frame(number)), "room is made by sending");
        }
        socket.flush();
        tool("ip", "link set xa down");
        for number in 0..SEND_FRAMES {
            assert!(socket.send(&frame(number)));
        }
        assert!(!socket.send(&frame(0)));
        assert_eq!(socket.counts().unwrap().send_full, 1);
        tool("ip", "link set xa up");
        assert!(socket.send(&frame(0)), "there is room again");
    });
}

#[test]
fn an_interface_that_is_down_is_not_tried_all_the_time() {
    in_namespace(|| {
        let [a, b] = veth();
        let mut socket = XskSocket::open(&a, 0).unwrap();
        let observer = observer(&b);
        tool("ip", "link set xa down");
        assert!(socket.send(&frame(1)));
        socket.flush();
        assert!(!socket.is_sending());
        assert_eq!(socket.counts().unwrap().send_refused, 1);
        tool("ip", "link set xa up");
        socket.flush();
        assert_eq!(observed(&observer), Some(frame(1)), "it has waited");
    });
}

#[test]
fn each_queue_has_one_socket() {
    in_namespace(|| {
        let [a, _] = veth();
        assert_eq!(receive_queues(&a).unwrap(), 2);
        let first = XskSocket::open(&a, 0).unwrap();
        let second = XskSocket::open(&a, 1).unwrap();
        let error = XskSocket::open(&a, 0).unwrap_err();
        let text = format!("{error:#}");
        assert!(
            text.contains("xa") && text.contains("another AF_XDP socket"),
            "{text}"
        );
        let error = XskSocket::open(&a, 2).unwrap_err();
        assert!(format!("{error:#}").contains("queue 2"), "{error:#}");
        drop((first, second));
        // As after a restart: the kernel lets go of the queue in a moment.
        XskSocket::open(&a, 0).unwrap();
    });
}
