use crate::wire::eth::{self, ETH_P_8021AD, ETH_P_8021Q, ETH_P_IP, ETH_P_IPV6};

fn frame(ether_types: &[u16]) -> Vec<u8> {
    let mut frame = vec![2; 12];
    for (position, ether_type) in ether_types.iter().enumerate() {
        if position > 0 {
            frame.extend([0, 100]);
        }
        frame.extend(ether_type.to_be_bytes());
    }
    frame
}

#[test]
fn up_to_two_tags_are_looked_behind() {
    let cases: [(&[u16], (u16, usize)); 6] = [
        (&[ETH_P_IP], (ETH_P_IP, 14)),
        (&[ETH_P_IPV6], (ETH_P_IPV6, 14)),
        (&[ETH_P_8021Q, ETH_P_IP], (ETH_P_IP, 18)),
        (&[ETH_P_8021AD, ETH_P_8021Q, ETH_P_IPV6], (ETH_P_IPV6, 22)),
        (&[ETH_P_8021Q, ETH_P_8021Q, ETH_P_IP], (ETH_P_IP, 22)),
        // A third tag is some protocol that is not IP.
        (
            &[ETH_P_8021AD, ETH_P_8021Q, ETH_P_8021Q, ETH_P_IP],
            (ETH_P_8021Q, 22),
        ),
    ];
    for (ether_types, expected) in cases {
        let frame = frame(ether_types);
        assert_eq!(eth::parse(&frame[..]), Some(expected), "{ether_types:04x?}");
    }
}

#[test]
fn a_frame_cut_in_its_header_has_none() {
    for length in 0..14 {
        assert_eq!(eth::parse(&frame(&[ETH_P_IP])[..length]), None);
    }
    for length in 14..18 {
        assert_eq!(eth::parse(&frame(&[ETH_P_8021Q, ETH_P_IP])[..length]), None);
    }
}

#[test]
fn frames_for_many_stations_are_left_alone() {
    let mut frame = frame(&[ETH_P_IP]);
    frame[..6].fill(0xff);
    assert_eq!(eth::parse(&frame[..]), None);
    frame[0] = 0x33;
    assert_eq!(eth::parse(&frame[..]), None);
}
