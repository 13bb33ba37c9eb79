//! Warnings of settings with which the proxy works, but not as far as it is configured to.

use std::{fs, path::Path};

use nix::sys::resource::{Resource, getrlimit};

use crate::{
    config::{Config, ProxyService, Service, Target},
    netlink::route::takes_marked_as_local,
    proxy::BACKLOG,
};

/// File descriptors beside those of connections and pipes.
const FDS_BESIDE: u64 = 1024;

/// What this machine's settings keep the proxy from; nothing without a service that needs it.
#[must_use]
pub fn warnings(config: &Config) -> Vec<String> {
    let proxied = || {
        let services = config.services.iter();
        services.filter_map(|service| Some((service, &**service.proxy()?)))
    };
    if proxied().next().is_none() {
        return Vec::new();
    }
    let root = Path::new("/proc/sys/net");
    let mut warnings = Vec::new();
    if proxied().any(|(_, proxy)| connects_elsewhere(proxy)) {
        warnings.extend(reuse(setting(root, "ipv4/tcp_tw_reuse")));
    }
    warnings.extend(backlog(setting(root, "core/somaxconn")));
    let transparent = proxied().filter(|(_, proxy)| proxy.transparent);
    warnings.extend(transparent.filter_map(|(service, _)| unroutable(service)));
    warnings
}

/// What the limit on file descriptors allows less of than configured. levee raises the limit when
/// it starts, where it may.
#[must_use]
pub fn fd_note(config: &Config) -> Option<String> {
    config.services.iter().find_map(Service::proxy)?;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    too_few_fds(config, hard)
}

fn too_few_fds(config: &Config, hard: u64) -> Option<String> {
    let globals = &config.proxy;
    let wanted = 2 * u64::from(globals.connections_max) + 2 * u64::from(globals.pipes_max);
    let wanted = wanted + FDS_BESIDE;
    (hard < wanted).then(|| {
        format!(
            "{} connections take {wanted} file descriptors, and the limit is {hard} here \
             (`ulimit -Hn`): unless levee is started where it is higher or may be raised \
             (LimitNOFILE={wanted} in a systemd unit), it will have fewer connections",
            globals.connections_max
        )
    })
}

/// Whether it has backends that are not on this machine by their address.
fn connects_elsewhere(proxy: &ProxyService) -> bool {
    let elsewhere = |target: &Target| match target {
        Target::Address(address) => !address.ip().is_loopback(),
        Target::Name { .. } => true,
    };
    proxy.backends.iter().any(|b| elsewhere(&b.target))
}

/// A setting that this kernel has, and whose value is a number.
fn setting(root: &Path, name: &str) -> Option<u64> {
    fs::read_to_string(root.join(name))
        .ok()?
        .trim()
        .parse()
        .ok()
}

fn reuse(tw_reuse: Option<u64>) -> Option<String> {
    (tw_reuse? != 1).then(|| {
        "connections that clients end first leave a local port in TIME_WAIT towards their backend \
         for a minute, which bounds them to some 470 per second and backend. With \
         `sysctl -w net.ipv4.tcp_tw_reuse=1` ports are used again after a second"
            .into()
    })
}

fn backlog(somaxconn: Option<u64>) -> Option<String> {
    let somaxconn = somaxconn.filter(|found| *found < BACKLOG as u64)?;
    Some(format!(
        "net.core.somaxconn is {somaxconn}: when more clients than that prove themselves at once, \
         some have to send their data again to get in. Allow {BACKLOG}: \
         `sysctl -w net.core.somaxconn={BACKLOG}`"
    ))
}

/// Backends answer to the client's address: what they send has to be taken in on this machine.
fn unroutable(service: &Service) -> Option<String> {
    let ipv6 = service.address.is_ipv6();
    let reason = match takes_marked_as_local(ipv6) {
        Ok(true) => return None,
        Ok(false) => "no rule sends marked packets to a table with a local default route".into(),
        Err(error) => format!("that cannot be asked: {error:#}"),
    };
    let (ip, any) = if ipv6 {
        ("ip -6", "::/0")
    } else {
        ("ip", "0.0.0.0/0")
    };
    Some(format!(
        "service {}: with transparent = true, answers of backends go to the clients' addresses, \
         and must come in here: {reason}. Needed are `{ip} rule add fwmark 1 lookup 100`, `{ip} \
         route add local {any} dev lo table 100`, a firewall rule that gives packets of \
         transparent sockets mark 1 (nft: `socket transparent 1 meta mark set 1`), and backends \
         that send through this machine",
        service.name
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(backend: &str) -> Config {
        let text = format!(
            "[proxy]\nconnections_max = 1000\npipes_max = 100\n[[interface]]\nname = \"eth0\"\n\
             [[service]]\naddress = \"192.0.2.1:80\"\nmode = \"proxy\"\n[[service.backend]]\n\
             address = \"{backend}\"\n"
        );
        Config::parse("test", &text).unwrap()
    }

    #[test]
    fn file_descriptors_are_counted() {
        let config = config("10.0.0.1:80");
        assert_eq!(too_few_fds(&config, 3224), None);
        let note = too_few_fds(&config, 3223).unwrap();
        assert!(
            note.contains("take 3224 file descriptors, and the limit is 3223"),
            "{note}"
        );
    }

    #[test]
    fn settings_that_bound_the_proxy_are_named() {
        assert_eq!(reuse(Some(1)), None);
        assert_eq!(reuse(None), None);
        assert!(reuse(Some(2)).unwrap().contains("tcp_tw_reuse=1"));
        assert_eq!(backlog(Some(4096)), None);
        assert!(backlog(Some(128)).unwrap().contains("somaxconn is 128"));
    }

    #[test]
    fn ports_matter_towards_other_machines() {
        for (backend, elsewhere) in [
            ("10.0.0.1:80", true),
            ("b.internal:80", true),
            ("127.0.0.1:80", false),
            ("[::1]:80", false),
        ] {
            let config = config(backend);
            let proxy = config.services[0].proxy().unwrap();
            assert_eq!(connects_elsewhere(proxy), elsewhere, "{backend}");
        }
    }

    #[test]
    fn a_machine_without_the_proxy_is_not_warned() {
        let text = "[[interface]]\nname = \"eth0\"\n[[service]]\naddress = \"192.0.2.1:80\"\n";
        let config = Config::parse("test", text).unwrap();
        assert_eq!(warnings(&config), [""; 0]);
        assert_eq!(fd_note(&config), None);
    }
}
