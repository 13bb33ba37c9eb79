use super::*;
use crate::config::Attach;

fn good() -> Facts {
    Facts {
        capabilities: HashSet::from([Capability::CAP_SYS_ADMIN, Capability::CAP_NET_ADMIN]),
        kernel_release: "6.12.1-test".into(),
        btf: Ok(BtfFacts {
            assign_tcp_reqsk: Some(5),
            tcx: true,
        }),
    }
}

fn refusal(facts: &Facts) -> String {
    facts.check().unwrap_err().to_string()
}

#[test]
fn a_good_machine_passes() {
    assert_eq!(good().check().unwrap().assign_tcp_reqsk, 5);
    let fine = [
        Capability::CAP_NET_ADMIN,
        Capability::CAP_BPF,
        Capability::CAP_PERFMON,
    ];
    let facts = Facts {
        capabilities: HashSet::from(fine),
        ..good()
    };
    assert!(facts.check().is_ok());
}

#[test]
fn missing_capabilities_are_named() {
    let with = |capabilities: &[Capability]| Facts {
        capabilities: capabilities.iter().copied().collect(),
        ..good()
    };
    let text = refusal(&with(&[]));
    assert!(
        text.starts_with(
            "missing capabilities CAP_NET_ADMIN, CAP_BPF, CAP_PERFMON: run levee as root"
        ),
        "{text}"
    );
    let text = refusal(&with(&[Capability::CAP_SYS_ADMIN]));
    assert!(
        text.starts_with("missing capability CAP_NET_ADMIN: "),
        "{text}"
    );
}

#[test]
fn a_kernel_that_is_too_old_is_told_what_it_lacks() {
    let with = |assign_tcp_reqsk, tcx| Facts {
        btf: Ok(BtfFacts {
            assign_tcp_reqsk,
            tcx,
        }),
        ..good()
    };
    let text = refusal(&with(None, true));
    assert!(text.contains("(6.12.1-test) is too old"), "{text}");
    assert!(
        text.contains("lacks bpf_sk_assign_tcp_reqsk (Linux 6.9, with"),
        "{text}"
    );
    assert!(!text.contains("tcx"), "{text}");
    let text = refusal(&with(None, false));
    assert!(
        text.contains("tcx links for TC programs (Linux 6.6) and bpf_sk_assign_tcp_reqsk"),
        "{text}"
    );
    assert!(refusal(&with(Some(1), false)).contains("lacks tcx links"));
    let facts = Facts {
        btf: Err("no such file".into()),
        ..good()
    };
    let text = refusal(&facts);
    assert!(text.contains("CONFIG_DEBUG_INFO_BTF"), "{text}");
    assert!(text.contains("no such file"), "{text}");
}

fn link(index: u32, name: &str, xdp: &[u32]) -> Link {
    Link {
        index,
        name: name.into(),
        mtu: 1500,
        ethernet: name != "tun0",
        up: true,
        loopback: false,
        xdp: xdp.into(),
        peer: None,
        vlan_of: None,
        vlan_tag: 0,
        mac: [0; 6],
    }
}

fn wanted(names: &[&str]) -> Vec<config::Interface> {
    let interface = |name: &&str| config::Interface {
        name: (*name).into(),
        attach: Attach::Auto,
    };
    names.iter().map(interface).collect()
}

#[test]
fn interfaces_are_found_in_the_order_configured() {
    let links = [link(1, "lo", &[]), link(2, "a", &[]), link(3, "b", &[])];
    let found = resolve(&wanted(&["b", "a"]), &links, |_| None).unwrap();
    let names: Vec<_> = found.iter().map(|link| link.name.as_str()).collect();
    assert_eq!(names, ["b", "a"]);
}

#[test]
fn unknown_occupied_and_colliding_interfaces_are_refused() {
    let links = [
        link(1, "lo", &[]),
        link(2, "a", &[77]),
        link(65, "c", &[]),
        link(3, "tun0", &[]),
    ];
    let refusal = |names: &[&str], name: Option<&str>| {
        let name = |_| name.map(Into::into);
        resolve(&wanted(names), &links, name)
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        refusal(&["x"], None),
        "there is no interface \"x\"; there are: lo, a, c, tun0"
    );
    let text = refusal(&["tun0"], None);
    assert!(text.starts_with("tun0 is no Ethernet interface"), "{text}");
    let text = refusal(&["a"], Some("xdp_filter"));
    assert!(
        text.contains("attached to a already: \"xdp_filter\" (id 77)"),
        "{text}"
    );
    assert!(refusal(&["a"], None).contains("already: id 77."));
    let text = refusal(&["lo", "c"], None);
    assert!(text.contains("lo (index 1) and c (index 65)"), "{text}");
}
