//! `levee-lab`: demonstration and benchmarks.
use std::{io, process::ExitCode};

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};
use levee_tests::{
    bench::{
        datapath::{self, DatapathOptions},
        flood::{self, BenchOptions},
        flows::{self, FlowsOptions},
        proxy::{
            self, ProxyOptions, System,
            idle::{self, IdleOptions},
        },
        splice::{self, SpliceOptions},
    },
    demo::{self, DemoOptions},
    guest::GuestOptions,
    interrupt::{Interrupt, Interrupted},
};

/// What a shell reports for a command that SIGINT ended.
const EXIT_INTERRUPTED: u8 = 130;

/// levee's lab: a flood, a server and a client in private network namespaces.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show a SYN flood first without and then with levee.
    Demo {
        /// SYNs per second of the flood.
        #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..=20_000_000))]
        rate: u64,
        /// How long each of the two floods lasts.
        #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u32).range(1..=50))]
        seconds: u32,
    },
    /// Measure.
    Bench {
        #[command(subcommand)]
        bench: Bench,
    },
    Guest(GuestOptions),
}

#[derive(Subcommand)]
enum Bench {
    /// Nanoseconds per packet of the data path, for every path through it.
    Datapath {
        /// How often everything is measured; medians are reported.
        #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..=99))]
        rounds: u32,
        /// Print JSON on standard output; progress goes to standard error.
        #[arg(long)]
        json: bool,
    },
    /// The highest rate of SYNs at which real clients still get through, for levee and others.
    Flood {
        /// How often everything is measured; medians are reported.
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=99))]
        rounds: u32,
        /// Print JSON on standard output; progress goes to standard error.
        #[arg(long)]
        json: bool,
    },
    /// Memory of the table of spliced connections, and the speed of what its thread does.
    Flows {
        /// Connections in the table.
        #[arg(long, default_value_t = 1 << 20, value_parser = clap::value_parser!(u32).range(1024..=1 << 23))]
        connections: u32,
        /// How often everything is measured; medians are reported.
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=99))]
        rounds: u32,
        /// Print JSON on standard output; progress goes to standard error.
        #[arg(long)]
        json: bool,
    },
    /// Requests, bulk data, latency, CPU and memory of the proxy, for levee and others.
    Proxy {
        /// How often everything is measured; medians are reported.
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=99))]
        rounds: u32,
        /// How long each load lasts.
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=30))]
        seconds: u32,
        /// What is compared; everything by default.
        #[arg(long, value_delimiter = ',')]
        systems: Vec<System>,
        /// Print JSON on standard output; progress goes to standard error.
        #[arg(long)]
        json: bool,
    },
    /// Bulk data, new connections, requests, latency and CPU of `splice` mode, and of what it
    /// replaces.
    Splice {
        /// How often everything is measured; medians are reported.
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=99))]
        rounds: u32,
        /// How long each load lasts.
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=30))]
        seconds: u32,
        /// What is compared.
        #[arg(
            long,
            value_delimiter = ',',
            default_value = "direct,synproxy,haproxy,levee,splice"
        )]
        systems: Vec<System>,
        /// Print JSON on standard output; progress goes to standard error.
        #[arg(long)]
        json: bool,
    },
    /// Memory and CPU of the proxy for many idle connections, for levee and others. Where one
    /// process may not have as many file descriptors, several proxies share them out.
    Idle {
        /// Connections.
        #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=i64::from(idle::CONNECTIONS_MAX)))]
        connections: u32,
        /// How long they are watched, seconds.
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=120))]
        seconds: u32,
        /// What is measured: levee, haproxy, nginx-stream.
        #[arg(
            long,
            value_delimiter = ',',
            default_value = "levee,haproxy,nginx-stream"
        )]
        systems: Vec<System>,
        /// Be one of several processes that share the connections out.
        #[arg(long, hide = true)]
        part: bool,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(code) => code,
        Err(error) if error.is::<Interrupted>() => {
            eprintln!("{Interrupted}");
            ExitCode::from(EXIT_INTERRUPTED)
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<ExitCode> {
    if !nix::unistd::geteuid().is_root() {
        bail!("the lab needs root: it makes network namespaces and loads eBPF programs");
    }
    let interrupt = Interrupt::install()?;
    match arguments.command {
        Command::Guest(options) => return Ok(options.run(&interrupt)?.into()),
        Command::Demo { rate, seconds } => {
            demo::run(DemoOptions { rate, seconds }, &interrupt, &mut io::stdout())?;
        }
        Command::Bench {
            bench: Bench::Datapath { rounds, json },
        } => datapath::run(DatapathOptions { rounds, json }, &interrupt)?,
        Command::Bench {
            bench: Bench::Flood { rounds, json },
        } => flood::run(BenchOptions { rounds, json }, &interrupt)?,
        Command::Bench {
            bench:
                Bench::Flows {
                    connections,
                    rounds,
                    json,
                },
        } => {
            let options = FlowsOptions {
                connections,
                rounds,
                json,
            };
            flows::run(options, &interrupt)?;
        }
        Command::Bench {
            bench:
                Bench::Proxy {
                    rounds,
                    seconds,
                    mut systems,
                    json,
                },
        } => {
            if systems.is_empty() {
                systems = System::PROXIES.to_vec();
            }
            let options = ProxyOptions {
                rounds,
                seconds,
                systems,
                json,
            };
            proxy::run(&options, &interrupt)?;
        }
        Command::Bench {
            bench:
                Bench::Splice {
                    rounds,
                    seconds,
                    systems,
                    json,
                },
        } => {
            let options = SpliceOptions {
                rounds,
                seconds,
                systems,
                json,
            };
            splice::run(&options, &interrupt)?;
        }
        Command::Bench {
            bench:
                Bench::Idle {
                    connections,
                    seconds,
                    systems,
                    part,
                },
        } => {
            let options = IdleOptions {
                connections,
                seconds,
                systems,
                part,
            };
            idle::run(&options, &interrupt)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
