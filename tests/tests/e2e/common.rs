//! What the end-to-end tests share: a lab with levee in it, sockets in its namespaces, a server.

use levee_tests::{
    levee::Levee,
    metrics::Metrics,
    topology::{INTERFACE, Lab, LabOptions, host_addresses},
};

/// The protected port.
pub(crate) const PORT: u16 = 80;

/// A port that levee does not protect: what a client meets without levee.
pub(crate) const PLAIN_PORT: u16 = 81;

/// What nginx serves.
pub(crate) const PAGE: &str = "levee lab\n";

/// A lab without VLAN tags.
pub(crate) fn lab() -> Lab {
    Lab::new(&LabOptions::default()).unwrap()
}

/// Starts levee for [`PORT`] over IPv4 and IPv6.
pub(crate) fn protect(lab: &Lab) -> Levee {
    Levee::protect(&lab.host, &[INTERFACE], &host_addresses(PORT)).unwrap()
}

/// levee's counters, summed over its services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counted {
    /// Cookies sent.
    pub(crate) sent: u64,
    /// Valid cookies returned.
    pub(crate) valid: u64,
    /// Invalid ones.
    pub(crate) invalid: u64,
    /// Sockets that the kernel made.
    pub(crate) admitted: u64,
    /// Proven clients that nobody listened for.
    pub(crate) no_listener: u64,
    /// Proven clients that the kernel refused.
    pub(crate) refused: u64,
}

impl Counted {
    /// Exactly so many clients were admitted and none was turned away. A client's first data may
    /// return the cookie once more, before there is a socket.
    pub(crate) fn assert_admitted(&self, clients: u64) {
        assert_eq!(self.admitted, clients, "{self:?}");
        assert!(self.valid >= clients, "{self:?}");
        assert_eq!(self.no_listener + self.refused, 0, "{self:?}");
    }

    /// Reads them.
    pub(crate) fn read(levee: &Levee) -> Self {
        let metrics = levee.metrics().unwrap();
        let sum = |name, labels: &[_]| sum(&metrics, name, labels);
        let failures = "levee_admission_failures_total";
        Self {
            sent: sum("levee_syncookies_sent_total", &[]),
            valid: sum("levee_syncookies_valid_total", &[]),
            invalid: sum("levee_syncookies_invalid_total", &[]),
            admitted: sum("levee_connections_admitted_total", &[]),
            no_listener: sum(failures, &[("reason", "no_listener")]),
            refused: sum(failures, &[("reason", "refused")]),
        }
    }
}

/// Packets that levee passed for this reason.
pub(crate) fn passed(levee: &Levee, reason: &str) -> u64 {
    let metrics = levee.metrics().unwrap();
    sum(&metrics, "levee_pass_packets_total", &[("reason", reason)])
}

fn sum(metrics: &Metrics, name: &str, labels: &[(&str, &str)]) -> u64 {
    metrics.sum(name, labels) as u64
}
