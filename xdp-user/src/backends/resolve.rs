//! Backends by name: look-ups, and what is kept of them when one fails.

use std::{
    collections::{BTreeSet, HashSet},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use hickory_resolver::{
    Hosts, TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig},
    net::runtime::TokioRuntimeProvider,
    proto::{
        op::Query,
        rr::{Name, RecordType},
    },
};
use tokio::{sync::Semaphore, time::timeout};

use crate::config::{BACKENDS_MAX, ProxyService, Target, unusable};

/// An answer is used at least as long, whatever its TTL: a TTL of 0 must not become a flood of
/// questions.
const VALID_MIN: Duration = Duration::from_secs(5);

/// An answer is used at most as long.
const VALID_MAX: Duration = Duration::from_secs(3600);

/// After a failure, the first further try; each failure doubles it.
const RETRY_MIN: Duration = Duration::from_secs(5);

/// The longest pause after a failure.
const RETRY_MAX: Duration = Duration::from_secs(60);

/// For one question to one server.
const QUERY_TIMEOUT: Duration = Duration::from_secs(2);

/// For one name, all servers and search domains together.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);

/// Look-ups at a time; each is two questions. Further ones wait.
const LOOKUPS_MAX: usize = 16;

/// Looks into the hosts file, and asks DNS for what is not there.
pub(super) struct Resolver {
    hosts: Hosts,
    inner: Result<TokioResolver, String>,
    permits: Semaphore,
}

/// What a look-up told, by family.
#[derive(Debug)]
pub(super) struct Answer {
    v4: Result<BTreeSet<IpAddr>, String>,
    v6: Result<BTreeSet<IpAddr>, String>,
    valid_for: Duration,
}

impl Resolver {
    /// With `server`, or what the system is configured for; that is read here. Where it cannot be
    /// read, every look-up fails and says so.
    pub(super) fn new(server: Option<SocketAddr>) -> Self {
        // A system without a hosts file has no hosts in it.
        Self::with_hosts(server, Hosts::from_system().unwrap_or_default())
    }

    fn with_hosts(server: Option<SocketAddr>, hosts: Hosts) -> Self {
        let builder = match server {
            Some(server) => Ok(TokioResolver::builder_with_config(
                only(server),
                TokioRuntimeProvider::default(),
            )),
            None => TokioResolver::builder_tokio(),
        };
        let inner = builder.and_then(|mut builder| {
            let options = builder.options_mut();
            // Answers are kept as long as they are valid by who asks.
            options.cache_size = 0;
            options.timeout = QUERY_TIMEOUT;
            options.use_hosts_file = ResolveHosts::Never;
            builder.build()
        });
        Self {
            hosts,
            inner: inner.map_err(|error| format!("cannot resolve names: {error}")),
            permits: Semaphore::new(LOOKUPS_MAX),
        }
    }

    /// Looks up both families' addresses of a host.
    pub(super) async fn look_up(&self, host: &str) -> Answer {
        if let Some(answer) = self.look_into_hosts(host) {
            return answer;
        }
        // The semaphore is never closed.
        let _permit = self.permits.acquire().await;
        let (v4, v6) = tokio::join!(
            self.records(host, RecordType::A),
            self.records(host, RecordType::AAAA)
        );
        let valid_until = [&v4, &v6]
            .into_iter()
            .filter_map(|family| family.as_ref().ok()?.1)
            .min();
        Answer {
            v4: v4.map(|(addresses, _)| addresses),
            v6: v6.map(|(addresses, _)| addresses),
            valid_for: valid_until.map_or(VALID_MAX, |until| {
                until.saturating_duration_since(Instant::now())
            }),
        }
    }

    /// What the hosts file has. DNS is not asked for a family that is missing there: it knows
    /// nothing of such names, and may be out of reach.
    fn look_into_hosts(&self, host: &str) -> Option<Answer> {
        let name = Name::from_utf8(host).ok()?;
        let [v4, v6] = [RecordType::A, RecordType::AAAA].map(|kind| {
            let found = self
                .hosts
                .lookup_static_host(&Query::query(name.clone(), kind));
            let records = found.iter().flat_map(|lookup| lookup.answers());
            let addresses = records.filter_map(|record| record.data.ip_addr());
            addresses.collect::<BTreeSet<_>>()
        });
        (!v4.is_empty() || !v6.is_empty()).then_some(Answer {
            v4: Ok(v4),
            v6: Ok(v6),
            valid_for: VALID_MAX,
        })
    }

    /// The addresses in a host's records, and until when they are valid. That there are none is no
    /// failure: most hosts have one family only.
    async fn records(
        &self,
        host: &str,
        kind: RecordType,
    ) -> Result<(BTreeSet<IpAddr>, Option<Instant>), String> {
        let resolver = self.inner.as_ref().map_err(String::clone)?;
        match timeout(LOOKUP_TIMEOUT, resolver.lookup(host, kind)).await {
            Err(_) => Err("no answer in time".into()),
            Ok(Err(error)) if error.is_no_records_found() => Ok((BTreeSet::new(), None)),
            Ok(Err(error)) => Err(error.to_string()),
            Ok(Ok(lookup)) => {
                let addresses = lookup.answers().iter().filter_map(|r| r.data.ip_addr());
                // As in the configuration. "No address" is what filtering servers answer.
                Ok((
                    addresses.filter(|ip| unusable(*ip).is_none()).collect(),
                    Some(lookup.valid_until()),
                ))
            }
        }
    }
}

fn only(server: SocketAddr) -> ResolverConfig {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()]
        .map(|mut connection| {
            connection.port = server.port();
            connection
        })
        .to_vec();
    let server = NameServerConfig::new(server.ip(), true, connections);
    ResolverConfig::from_parts(None, Vec::new(), vec![server])
}

/// The addresses of one name, as far as they are known.
#[derive(Debug, Default)]
pub(super) struct Known {
    v4: BTreeSet<IpAddr>,
    v6: BTreeSet<IpAddr>,
    failures: u32,
}

/// What came of a look-up.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    /// Why it did not succeed, if so: the addresses known before stay.
    pub(super) error: Option<String>,
    /// Whether it is the first failure in a row.
    pub(super) begins: bool,
    /// When to look again.
    pub(super) again_in: Duration,
}

impl Known {
    /// Addresses that were found before.
    pub(super) fn from_addresses(addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        let (v4, v6) = addresses.into_iter().partition(IpAddr::is_ipv4);
        Self {
            v4,
            v6,
            failures: 0,
        }
    }

    /// IPv4 first, each family sorted.
    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.v4.iter().chain(&self.v6).copied()
    }

    /// Takes an answer. A family whose look-up failed keeps its addresses, and a name that has
    /// none any more keeps all: a mistake in DNS must not end a service.
    pub(super) fn update(&mut self, answer: Answer) -> Outcome {
        let (v4, v6) = (answer.v4.as_ref(), answer.v6.as_ref());
        let found = v4.map_or(0, BTreeSet::len) + v6.map_or(0, BTreeSet::len);
        let failed = v4.is_err() || v6.is_err();
        self.failures = if found == 0 || failed {
            self.failures.saturating_add(1)
        } else {
            0
        };
        let again_in = match self.failures {
            0 => answer.valid_for.clamp(VALID_MIN, VALID_MAX),
            failures => RETRY_MIN
                .saturating_mul(1 << (failures - 1).min(16))
                .min(RETRY_MAX),
        };
        if found == 0 {
            let error = answer.v4.err().or(answer.v6.err());
            return Outcome {
                error: Some(error.unwrap_or_else(|| "the name has no address".into())),
                begins: self.failures == 1,
                again_in,
            };
        }
        for (known, answer) in [(&mut self.v4, answer.v4), (&mut self.v6, answer.v6)] {
            if let Ok(addresses) = answer {
                *known = addresses;
            }
        }
        Outcome {
            error: None,
            begins: false,
            again_in,
        }
    }
}

/// What the addresses of a service's backends come to, by position in its configuration.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Composed {
    /// In the order of the configuration, at most [`BACKENDS_MAX`]. Each backend gets one address
    /// before any gets a second.
    pub(super) chosen: Vec<(usize, SocketAddr)>,
    /// How many there is no room for.
    pub(super) left_out: usize,
    /// Addresses that are no backend: where levee itself serves, a connection would go round until
    /// nothing is left.
    pub(super) loops: Vec<(usize, SocketAddr)>,
}

/// The addresses of the backends of a service, which is at `own`. `served` is where it and all others
/// are. Where packets are forwarded as they are, no address of the other family is a backend.
pub(super) fn compose(
    service: &ProxyService,
    own: SocketAddr,
    served: &HashSet<SocketAddr>,
    known: &[Known],
) -> Composed {
    let mut loops = Vec::new();
    let backends = service.backends.iter().zip(known).enumerate();
    let addresses: Vec<Vec<SocketAddr>> = backends
        .map(|(position, (backend, known))| match backend.target {
            // The configuration was refused if it is one of levee's.
            Target::Address(address) => vec![address],
            Target::Name { port, .. } => {
                let named = known.addresses().map(|ip| SocketAddr::new(ip, port));
                let fits = |a: &SocketAddr| !service.spliced || a.is_ipv4() == own.is_ipv4();
                let (back, others): (Vec<_>, _) =
                    named.filter(fits).partition(|a| served.contains(a));
                loops.extend(back.into_iter().map(|address| (position, address)));
                others
            }
        })
        .collect();
    let total = addresses.iter().map(Vec::len).sum::<usize>();
    let longest = addresses.iter().map(Vec::len).max().unwrap_or(0);
    let mut chosen: Vec<(usize, usize)> = (0..longest)
        .flat_map(|nth| (0..addresses.len()).map(move |backend| (backend, nth)))
        .filter(|&(backend, nth)| nth < addresses[backend].len())
        .take(BACKENDS_MAX)
        .collect();
    chosen.sort_unstable();
    let chosen: Vec<_> = chosen
        .into_iter()
        .map(|(backend, nth)| (backend, addresses[backend][nth]))
        .collect();
    Composed {
        left_out: total - chosen.len(),
        chosen,
        loops,
    }
}

#[cfg(test)]
mod tests;
