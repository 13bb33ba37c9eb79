//! The command line.

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf, absolute},
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Error, Result, bail};
use clap::{Args, Parser, Subcommand, builder::TypedValueParser, value_parser};
use log::LevelFilter;

use crate::{
    check,
    config::{CONTROL_SOCKET, Config, Flags, METRICS_LISTEN, SECRET_FILE},
    controller,
    ctl::{self, LISTED_DEFAULT, LISTED_MAX, Request, Response, Selection},
    log_output, pins,
};

/// How long a levee may take to start before it takes over, and to answer after that: the kernel
/// verifies its programs, and names of backends are looked up.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(60);

/// How often it is asked.
const UPGRADE_LOOK: Duration = Duration::from_millis(50);

/// Holds back SYN floods at the NIC and lets real clients through.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Protect services until SIGINT or SIGTERM. Needs root.
    Run(RunArgs),
    /// Check a configuration file, without root and without changing anything.
    Check {
        /// The configuration file.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Show what a running levee does.
    Status {
        /// Print JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        socket: SocketArg,
    },
    /// List connections of services in proxy and splice mode.
    Connections {
        #[command(flatten)]
        selection: Selection,
        /// How many to show at most.
        #[arg(long, value_name = "N", default_value_t = LISTED_DEFAULT)]
        #[arg(value_parser = at_most(LISTED_MAX))]
        limit: usize,
        /// Print JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        socket: SocketArg,
    },
    /// End connections of services in proxy and splice mode, with a RST to client and backend.
    Kill(KillArgs),
    /// Have a running levee start its program again, as it is installed now, and leave everything to
    /// it without a gap.
    Upgrade {
        #[command(flatten)]
        socket: SocketArg,
    },
    /// Take off the data path that a levee which died has left on the interfaces. Needs root.
    Detach {
        /// Where it is pinned, instead of where --socket leads to.
        #[arg(long, value_name = "DIR", conflicts_with = "socket")]
        pin_dir: Option<PathBuf>,
        #[command(flatten)]
        socket: SocketArg,
    },
    /// Have a running levee read its configuration file again, as SIGHUP does.
    Reload {
        #[command(flatten)]
        socket: SocketArg,
    },
}

#[derive(Debug, Args)]
struct SocketArg {
    /// The control socket of the levee.
    #[arg(long, value_name = "PATH", default_value = CONTROL_SOCKET)]
    socket: PathBuf,
}

#[derive(Debug, Args)]
struct KillArgs {
    /// The connection with this id, as `levee connections` shows it.
    #[arg(value_name = "ID")]
    id: Option<String>,
    #[command(flatten)]
    selection: Selection,
    /// All connections.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    socket: SocketArg,
}

#[derive(Debug, Args)]
struct RunArgs {
    /// The configuration file; instead of it, --iface and --protect.
    #[arg(long, value_name = "FILE", required_unless_present_any = ["iface", "protect"])]
    #[arg(conflicts_with_all = [
        "iface", "protect", "metrics", "secret_file", "control_socket", "pin_dir"
    ])]
    config: Option<PathBuf>,
    /// An interface that clients come in through. Repeatable.
    #[arg(long, value_name = "IF", requires = "protect")]
    iface: Vec<String>,
    /// A service on this machine, such as 192.0.2.10:443 or [2001:db8::10]:443. Repeatable.
    #[arg(long, value_name = "ADDR:PORT", requires = "iface")]
    protect: Vec<String>,
    /// Where to serve metrics, or "off".
    #[arg(long, value_name = "ADDR:PORT", help = format!(
        "Where to serve metrics, or \"off\" [default: {METRICS_LISTEN}]"
    ))]
    metrics: Option<String>,
    /// The file with the master secret.
    #[arg(long, value_name = "FILE", help = format!(
        "The file with the master secret, made if there is none [default: {SECRET_FILE}]"
    ))]
    secret_file: Option<PathBuf>,
    /// The control socket.
    #[arg(long, value_name = "PATH", help = format!(
        "The control socket, for `levee status` [default: {CONTROL_SOCKET}]"
    ))]
    control_socket: Option<PathBuf>,
    /// Where the data path is pinned, or "off".
    #[arg(long, value_name = "DIR", help = format!(
        "Where the data path is pinned, or \"off\" [default: below {}/levee, by the control socket]",
        pins::MOUNT_POINT
    ))]
    pin_dir: Option<PathBuf>,
    /// Take over from the levee that runs with the same control socket, if there is one, without a
    /// gap.
    #[arg(long)]
    replace: bool,
    /// What to log: off, error, warn, info, debug or trace. Before RUST_LOG.
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<LevelFilter>,
}

/// Runs the command line of this process. Errors are printed to stderr.
#[must_use]
pub fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(args) => run(args),
        Command::Check { config } => check::report(&config).and_then(|text| print(&text)),
        Command::Status { json, socket } => status(&socket.socket, json),
        Command::Connections {
            selection,
            limit,
            json,
            socket,
        } => connections(&socket.socket, selection, limit, json),
        Command::Kill(args) => kill(args),
        Command::Detach { pin_dir, socket } => detach(pin_dir, &socket.socket),
        Command::Reload { socket } => reload(&socket.socket),
        Command::Upgrade { socket } => upgrade(&socket.socket),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Not `eprintln!`, which panics where nobody reads stderr any more.
            let _ = writeln!(io::stderr(), "levee: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: RunArgs) -> Result<()> {
    log_output::init(args.log_level);
    let config = match &args.config {
        Some(file) => Config::read(file)?,
        None => Flags {
            interfaces: args.iface,
            protect: args.protect,
            metrics: args.metrics,
            secret_file: args.secret_file,
            control_socket: args.control_socket,
            pin_dir: args.pin_dir,
        }
        .into_config()?,
    };
    // One thread does all the work there is; the start runs on another beside it.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the asynchronous runtime")?;
    let result = runtime.block_on(controller::run(config, args.config, args.replace));
    // A start that was interrupted is not waited for: the kernel drops what it had made.
    runtime.shutdown_background();
    result
}

fn status(socket: &Path, json: bool) -> Result<()> {
    let Response::Status(status) = ctl::request(socket, Request::Status)? else {
        bail!("levee gave the answer to another question");
    };
    if json {
        print(&(serde_json::to_string_pretty(&status)? + "\n"))
    } else {
        print(&ctl::render(&status))
    }
}

fn connections(socket: &Path, selection: Selection, limit: usize, json: bool) -> Result<()> {
    selection.filter().map_err(Error::msg)?;
    let request = Request::Connections { selection, limit };
    let Response::Connections(connections) = ctl::request(socket, request)? else {
        bail!("levee gave the answer to another question");
    };
    if json {
        print(&(serde_json::to_string_pretty(&connections)? + "\n"))
    } else {
        print(&ctl::render_connections(&connections))
    }
}

fn kill(args: KillArgs) -> Result<()> {
    let KillArgs {
        id,
        mut selection,
        all,
        socket,
    } = args;
    selection.id = id;
    selection.filter().map_err(Error::msg)?;
    let request = Request::Kill { selection, all };
    let Response::Killed(killed) = ctl::request(&socket.socket, request)? else {
        bail!("levee gave the answer to another question");
    };
    print(&format!("ended {killed} connection(s)\n"))
}

fn detach(pin_dir: Option<PathBuf>, socket: &Path) -> Result<()> {
    let directory = match pin_dir {
        Some(directory) => directory,
        None => pins::default_directory(&absolute(socket)?),
    };
    pins::take_off(&directory, controller::LINGER)?;
    print(&format!(
        "detached what was pinned at {}\n",
        directory.display()
    ))
}

fn at_most(max: usize) -> impl TypedValueParser<Value = usize> {
    value_parser!(u64).range(1..=max as u64).map(|n| n as usize)
}

fn reload(socket: &Path) -> Result<()> {
    let Response::Reloaded(reloaded) = ctl::request(socket, Request::Reload)? else {
        bail!("levee gave the answer to another question");
    };
    let mut text = format!("reloaded: {} service(s) protected\n", reloaded.services);
    for (what, names) in [
        ("added", reloaded.added),
        ("removed", reloaded.removed),
        ("needs a restart of levee", reloaded.needs_restart),
    ] {
        if !names.is_empty() {
            text += &format!("{what}: {}\n", names.join(", "));
        }
    }
    print(&text)
}

fn upgrade(socket: &Path) -> Result<()> {
    let answer = ctl::request_within(socket, Request::Upgrade, UPGRADE_TIMEOUT)?;
    let Response::Upgraded(pid) = answer else {
        bail!("levee gave the answer to another question");
    };
    let deadline = Instant::now() + UPGRADE_TIMEOUT;
    loop {
        match ctl::request(socket, Request::Status) {
            Ok(Response::Status(status)) if status.pid == pid => {
                return print(&format!(
                    "levee {} (process {pid}) has taken over\n",
                    status.version
                ));
            }
            answer if Instant::now() > deadline => bail!(
                "process {pid} was to take over, but does not answer; levee's log has its reason \
                 (last answer: {answer:?})"
            ),
            _ => thread::sleep(UPGRADE_LOOK),
        }
    }
}

/// Prints to stdout; whoever reads it may stop early, as `head` does.
fn print(text: &str) -> Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to stdout")
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn run_takes_a_file_or_flags_but_not_both() {
        let parse = |line: &str| Cli::try_parse_from(line.split(' '));
        assert!(parse("levee run --config f").is_ok());
        assert!(parse("levee run --iface eth0 --protect 192.0.2.1:80").is_ok());
        assert!(
            parse("levee run --iface a --iface b --protect x --protect y --metrics off").is_ok()
        );
        assert!(parse("levee run").is_err());
        let missing = parse("levee run --iface eth0").unwrap_err().to_string();
        assert!(missing.contains("--protect") && !missing.contains("--config"));
        assert!(parse("levee run --protect 192.0.2.1:80").is_err());
        assert!(parse("levee run --config f --iface eth0").is_err());
        assert!(parse("levee run --config f --metrics off").is_err());
        assert!(parse("levee run --config f --log-level loud").is_err());
    }
}
