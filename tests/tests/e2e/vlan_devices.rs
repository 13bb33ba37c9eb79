//! Tags that the kernel's own VLAN devices put on and take off, as on a server in a VLAN or behind
//! an access network with two tags (QinQ).

use std::net::IpAddr;

use levee_tests::{
    http::get_in,
    levee::Levee,
    link::mac_text,
    server::Nginx,
    sockets::{LIMIT, eventually},
    topology::{CLIENT_MAC, HOST_MAC_BYTES, INTERFACE, Lab},
    vlan::{self, QINQ, Tag, VLAN, has_devices},
};

use crate::common::{Counted, PAGE, PORT, lab};

/// Addresses on the innermost device: of the host, of the client, and their prefix length.
const ADDRESSES: [(&str, &str, u8); 2] = [
    ("10.77.2.1", "10.77.2.2", 24),
    ("fd77:2::1", "fd77:2::2", 64),
];

/// A lab, unless this kernel has no VLAN devices.
fn lab_with_vlan_devices() -> Option<Lab> {
    has_devices().unwrap().then(lab)
}

/// Makes a device for each tag, outermost first, one on top of the other, on both sides, and gives
/// the innermost addresses.
fn add_devices(lab: &Lab, tags: &[Tag]) {
    let host_mac = mac_text(HOST_MAC_BYTES);
    for (netns, neighbour_mac) in [(&lab.host, CLIENT_MAC), (&lab.client, &host_mac)] {
        let device = vlan::add_devices(netns, INTERFACE, tags).unwrap();
        for (host, client, length) in ADDRESSES {
            let (own, other) = if neighbour_mac == CLIENT_MAC {
                (host, client)
            } else {
                (client, host)
            };
            let own: IpAddr = own.parse().unwrap();
            netns.address(own, length, &device).unwrap();
            netns
                .tool(&format!(
                    "ip neigh add {other} lladdr {neighbour_mac} dev {device} nud permanent"
                ))
                .unwrap();
        }
    }
}

fn protect(lab: &Lab) -> Levee {
    let services = ADDRESSES.map(|(host, ..)| (host.parse::<IpAddr>().unwrap(), PORT).into());
    Levee::protect(&lab.host, &[INTERFACE], &services).unwrap()
}

/// The page comes over IPv4 and IPv6, and every client is admitted once.
fn pages_come(lab: &Lab, levee: &Levee) {
    let addresses = ADDRESSES.map(|(host, ..)| (host.parse::<IpAddr>().unwrap(), PORT).into());
    let _server = Nginx::start(&lab.host, &addresses).unwrap();
    for address in addresses {
        let (status, page) = get_in(&lab.client, address, "/", LIMIT)
            .unwrap_or_else(|error| panic!("{error:#}; {:?}", Counted::read(levee)));
        assert_eq!((status, page.as_str()), (200, PAGE), "{address}");
    }
    let counted = Counted::read(levee);
    println!("{counted:?}\n{}", levee.log().unwrap());
    counted.assert_admitted(2);
}

#[test]
fn over_a_vlan_device() {
    let Some(lab) = lab_with_vlan_devices() else {
        return;
    };
    add_devices(&lab, &VLAN);
    pages_come(&lab, &protect(&lab));
}

#[test]
fn over_stacked_vlan_devices() {
    let Some(lab) = lab_with_vlan_devices() else {
        return;
    };
    add_devices(&lab, &QINQ);
    let mut levee = protect(&lab);
    pages_come(&lab, &levee);
    // The next one takes over what is on the devices, too.
    levee.kill().unwrap();
    levee.start_again().unwrap();
    let former = Counted::read(&levee);
    former.assert_admitted(2);
    let addresses = ADDRESSES.map(|(host, ..)| (host.parse::<IpAddr>().unwrap(), PORT).into());
    let _server = Nginx::start(&lab.host, &addresses).unwrap();
    for address in addresses {
        let (status, page) = get_in(&lab.client, address, "/", LIMIT).unwrap();
        assert_eq!((status, page.as_str()), (200, PAGE), "{address}");
    }
    Counted::read(&levee).assert_admitted(4);
}

#[test]
fn over_vlan_devices_that_appear_later() {
    let Some(lab) = lab_with_vlan_devices() else {
        return;
    };
    let levee = protect(&lab);
    add_devices(&lab, &QINQ);
    let device = format!("attached to VLAN device {INTERFACE}.{}", QINQ[0].id);
    eventually("levee sees the device", || {
        levee.log().unwrap().contains(&device)
    });
    pages_come(&lab, &levee);
}
