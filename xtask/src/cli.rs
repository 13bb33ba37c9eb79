//! The command line.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Build, run, test and measure levee.
///
/// What the build needs and the machine lacks (Rust's library source, bpf-linker, Debian packages
/// for the tests) is installed on first use, after asking. Building needs no root; what loads BPF
/// programs or makes network namespaces is started with sudo and says why.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
pub(crate) struct Cli {
    /// Install what is missing without asking, as with CI=true in the environment
    #[arg(long, global = true)]
    pub(crate) yes: bool,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Build the eBPF objects and the host binaries
    Build {
        /// Build the host binaries without optimisation (the eBPF objects always have it: the
        /// verifier refuses them otherwise)
        #[arg(long)]
        debug: bool,
    },
    /// Build in release mode and run levee; without --config and --iface: the demo
    BuildAndLoad(LoadArgs),
    /// Show a SYN flood with and without levee, in network namespaces (at most 60 s)
    Demo {
        /// Passed on to `levee-lab demo`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Run all tests, or those whose name contains FILTER
    Test {
        /// Part of a test's name
        filter: Option<String>,
        /// Passed on to the test binaries, for example --nocapture
        #[arg(last = true)]
        args: Vec<String>,
    },
    /// Run a command in another kernel, in a virtual machine with this machine's files
    Guest {
        /// Passed on to `levee-lab guest`, for example --emulate --kernel old -- uname -r
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Test with Debian's kernels: one that levee must refuse, one that has VLAN devices
    GuestTest(GuestTestArgs),
    /// Check the formatting and run clippy for the host and the BPF target, warnings as errors
    Lint,
    /// Check the architecture's invariants in the source text
    Tidy,
    /// Measure: ns per packet of each path, the flood that legitimate clients survive, the flow
    /// table, the proxy, or splice mode
    Bench {
        /// What to measure
        kind: Bench,
        /// Passed on to `levee-lab bench`, for example --json
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
}

#[derive(Args)]
pub(crate) struct LoadArgs {
    /// Configuration file of a real machine
    #[arg(long, value_name = "FILE", conflicts_with_all = ["iface", "protect"])]
    pub(crate) config: Option<PathBuf>,

    /// Network interface to protect, without a configuration file
    #[arg(long, value_name = "IF", requires = "protect")]
    pub(crate) iface: Option<String>,

    /// Service to protect, for example 192.0.2.1:443 or [2001:db8::1]:443; repeatable
    #[arg(long, value_name = "ADDR:PORT", requires = "iface")]
    pub(crate) protect: Vec<SocketAddr>,

    /// Passed on to `levee run`, or to the demo
    #[arg(last = true)]
    pub(crate) args: Vec<String>,
}

#[derive(Args)]
pub(crate) struct GuestTestArgs {
    /// Do without KVM: works everywhere, some ten times slower
    #[arg(long)]
    pub(crate) emulate: bool,

    /// When each guest ends at the latest, seconds
    #[arg(long, default_value_t = 900)]
    pub(crate) seconds: u32,

    /// All end-to-end tests in the newer kernel, not only those about what it alone has
    #[arg(long, conflicts_with = "filter")]
    pub(crate) all: bool,

    /// Parts of names of end-to-end tests to run in the newer kernel
    pub(crate) filter: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Bench {
    /// ns per packet by BPF_PROG_TEST_RUN, next to bare XDP_DROP and XDP_TX
    Datapath,
    /// The highest SYN rate at which 99 % of legitimate connects succeed, levee and its peers
    Flood,
    /// Memory of the table of spliced connections, and the speed of what its thread does
    Flows,
    /// Requests, bulk data, latency, CPU and memory of the proxy, levee and its peers
    Proxy,
    /// Bulk data, new connections, requests, latency and CPU of splice mode, levee and its peers
    Splice,
}

impl Bench {
    /// The name `levee-lab bench` knows it by.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Datapath => "datapath",
            Self::Flood => "flood",
            Self::Flows => "flows",
            Self::Proxy => "proxy",
            Self::Splice => "splice",
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn protect_is_repeatable_and_the_rest_is_passed_on() {
        let cli = Cli::try_parse_from(
            "xtask build-and-load --iface eth1 --protect 192.0.2.1:80 --protect [2001:db8::1]:443 \
             -- --generic"
                .split_whitespace(),
        );
        let Ok(Cli {
            command: Command::BuildAndLoad(load),
            ..
        }) = cli
        else {
            panic!("not accepted");
        };
        assert_eq!(load.protect.len(), 2);
        assert_eq!(load.args, ["--generic"]);
    }

    #[test]
    fn config_and_iface_exclude_each_other() {
        let args = "xtask build-and-load --config a.toml --iface eth1 --protect 192.0.2.1:80";
        assert!(Cli::try_parse_from(args.split_whitespace()).is_err());
        assert!(Cli::try_parse_from("xtask build-and-load --iface eth1".split(' ')).is_err());
    }

    #[test]
    fn bench_passes_its_options_on() {
        let cli = Cli::try_parse_from("xtask bench datapath --json --runs 3".split(' '));
        let Ok(Cli {
            command: Command::Bench { kind, args },
            ..
        }) = cli
        else {
            panic!("not accepted");
        };
        assert_eq!(kind.name(), "datapath");
        assert_eq!(args, ["--json", "--runs", "3"]);
    }
}
