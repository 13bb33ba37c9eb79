//! Backends in a VLAN, on the way to which levee's kernel has a VLAN device.

use std::net::{IpAddr, SocketAddr};

use levee_tests::{
    pattern::both_ways,
    splice_lab::{INSIDE, INTERFACE, SpliceLab},
    vlan::{QINQ, Tag, VLAN, add_devices, has_devices},
};

use crate::common::{BACKEND_PORT, Stage, addresses, service};

/// levee's addresses on the innermost device, the backend's, and their prefix length.
const ADDRESSES: [(&str, &str, u8); 2] = [
    ("10.79.5.1", "10.79.5.2", 24),
    ("fd79:5::1", "fd79:5::2", 64),
];

/// Connections lead into the VLAN, and answers come out of it.
fn forwards_into(tags: &[Tag]) {
    if !has_devices().unwrap() {
        return;
    }
    let lab = SpliceLab::plain().unwrap();
    let outward = add_devices(&lab.levee, INSIDE, tags).unwrap();
    let inward = add_devices(&lab.backend, INTERFACE, tags).unwrap();
    for (levee, backend, length) in ADDRESSES {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        lab.levee.address(address(levee), length, &outward).unwrap();
        lab.backend
            .address(address(backend), length, &inward)
            .unwrap();
        lab.backend
            .tool(&format!(
                "ip route replace default via {levee} dev {inward}"
            ))
            .unwrap();
    }
    let backends = ADDRESSES.map(|(_, backend, _)| -> SocketAddr {
        SocketAddr::new(backend.parse().unwrap(), BACKEND_PORT)
    });
    let services = addresses().into_iter().zip(backends);
    let services = services.map(|(address, backend)| service(address, "", &[backend]));
    let stage = Stage::in_lab(lab, &backends, &services.collect::<String>());
    for family in [0, 1] {
        let (client, server) = stage.pair(family);
        both_ways(&client, &server, 20);
    }
    stage.assert_nothing_left();
}

#[test]
fn one_tag() {
    forwards_into(&VLAN);
}

#[test]
fn two_tags() {
    forwards_into(&QINQ);
}
