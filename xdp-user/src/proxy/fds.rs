//! File descriptors: how many connections they allow.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::config::ProxyGlobals;

/// Descriptors that are not the proxy's: control socket, metrics, health checks, netlink, BPF.
const OTHERS: u64 = 96;

/// Descriptors of each worker besides its listeners: event queues, its wake-up, the reserve.
const PER_WORKER: u64 = 4;

/// What there is room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Budget {
    /// Connections at a time.
    pub(super) connections_max: u32,
    /// Pipes at a time.
    pub(super) pipes_max: u32,
    /// Whether descriptors are the reason that there are not more connections.
    pub(super) is_bound_by_fds: bool,
}

impl Budget {
    /// Raises the process's limit on descriptors as far as the system allows and needed, and
    /// shares out what there is. Warns when that is less than configured.
    pub(super) fn claim(globals: &ProxyGlobals, workers: u16, services: usize) -> Self {
        let fixed = OTHERS + u64::from(workers) * (PER_WORKER + services as u64);
        let wanted =
            fixed + 2 * u64::from(globals.connections_max) + 2 * u64::from(globals.pipes_max);
        let limit = raise(wanted);
        let budget = Self::of(globals, limit.saturating_sub(fixed));
        if budget.is_bound_by_fds {
            log::warn!(
                "{limit} file descriptors allow {} connections at a time, {} are configured \
                 (LimitNOFILE={wanted} in the service's unit, or proxy.connections_max)",
                budget.connections_max,
                globals.connections_max
            );
        }
        budget
    }

    /// Shares out `free` descriptors: a pipe takes two, and so does a connection.
    fn of(globals: &ProxyGlobals, free: u64) -> Self {
        // Something has to be possible, even if it then meets the kernel's bound.
        let free = free.max(16);
        let pipes = u64::from(globals.pipes_max).min(free / 8);
        let connections = (free - 2 * pipes) / 2;
        let configured = u64::from(globals.connections_max);
        Self {
            connections_max: connections.min(configured) as u32,
            pipes_max: pipes as u32,
            is_bound_by_fds: connections < configured,
        }
    }
}

/// The limit that is in force after trying to have `wanted`.
fn raise(wanted: u64) -> u64 {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return 0;
    };
    if soft >= wanted {
        return soft;
    }
    // Above the hard limit needs CAP_SYS_RESOURCE; up to it nothing.
    for (soft, hard) in [(wanted, wanted.max(hard)), (wanted.min(hard), hard)] {
        if setrlimit(Resource::RLIMIT_NOFILE, soft, hard).is_ok() {
            return soft;
        }
    }
    soft
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(connections_max: u32, pipes_max: u32, free: u64) -> Budget {
        let globals = ProxyGlobals {
            connections_max,
            pipes_max,
            ..ProxyGlobals::default()
        };
        Budget::of(&globals, free)
    }

    #[test]
    fn what_is_configured_if_there_is_room() {
        let budget = of(1_000, 100, 2_200);
        assert_eq!((budget.connections_max, budget.pipes_max), (1_000, 100));
        assert!(!budget.is_bound_by_fds);
    }

    #[test]
    fn otherwise_pipes_take_a_quarter_at_most() {
        let budget = of(1_000, 512, 800);
        assert_eq!((budget.connections_max, budget.pipes_max), (300, 100));
        assert!(budget.is_bound_by_fds);
    }

    #[test]
    fn a_few_always() {
        assert!(of(1_000, 512, 0).connections_max > 0);
    }
}
