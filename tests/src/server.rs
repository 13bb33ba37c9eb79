//! nginx as the protected web server.
use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

use crate::{http, netns::Netns, process::Process, scratch};

/// How long nginx may take to answer its first request.
const START_TIMEOUT: Duration = Duration::from_secs(10);
const RETRY_INTERVAL: Duration = Duration::from_millis(20);

/// Length of the queue of connections that nginx has not accepted yet.
pub const BACKLOG: u32 = 4096;

/// A running nginx; dropping it ends it and removes its files.
#[derive(Debug)]
pub struct Nginx {
    directory: TempDir,
    process: Process,
}

impl Nginx {
    /// Starts nginx on these addresses and waits until it answers on all of them.
    ///
    /// # Errors
    /// Quotes nginx's log when it does not start.
    pub fn start(netns: &Netns, addresses: &[SocketAddr]) -> Result<Self> {
        let directory = scratch::directory()?;
        let root = directory.path().join("root");
        fs::create_dir(&root).context("cannot make nginx's root directory")?;
        fs::write(root.join("index.html"), "levee lab\n").context("cannot write nginx's page")?;
        let config = directory.path().join("nginx.conf");
        fs::write(&config, configuration(directory.path(), addresses))
            .context("cannot write nginx's configuration")?;
        let log =
            fs::File::create(log_path(directory.path())).context("cannot make nginx's log")?;
        let mut command = netns.command("nginx");
        command
            .arg("-p")
            .arg(directory.path())
            .arg("-c")
            .arg(&config);
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let mut nginx = Self {
            process: Process::spawn("nginx", command)?,
            directory,
        };
        nginx.wait_until_ready(netns, addresses)?;
        Ok(nginx)
    }

    /// The directory it serves; tests may put files there.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.directory.path().join("root")
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    fn wait_until_ready(&mut self, netns: &Netns, addresses: &[SocketAddr]) -> Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        for address in addresses {
            while let Err(error) = http::get_in(netns, *address, "/", START_TIMEOUT) {
                let ended = self.process.try_wait()?;
                if ended.is_some() || Instant::now() > deadline {
                    let log = fs::read_to_string(log_path(self.directory.path()))?;
                    bail!("nginx does not answer: {error:#}; status {ended:?}; its log:\n{log}");
                }
                thread::sleep(RETRY_INTERVAL);
            }
        }
        Ok(())
    }
}

fn log_path(directory: &Path) -> PathBuf {
    directory.join("nginx.log")
}

/// One process in the foreground: nothing to clean up but that one, and as much server as a lab on
/// two cores can use.
fn configuration(directory: &Path, addresses: &[SocketAddr]) -> String {
    let dir = directory.display();
    let listen: String = addresses
        .iter()
        .map(|address| format!("    listen {address} backlog={BACKLOG};\n"))
        .collect();
    format!(
        "daemon off;\n\
         master_process off;\n\
         user root;\n\
         pid {dir}/nginx.pid;\n\
         error_log stderr warn;\n\
         events {{ worker_connections 8192; }}\n\
         http {{\n\
         \x20 access_log off;\n\
         \x20 client_body_temp_path {dir}/body;\n\
         \x20 proxy_temp_path {dir}/proxy;\n\
         \x20 fastcgi_temp_path {dir}/fastcgi;\n\
         \x20 uwsgi_temp_path {dir}/uwsgi;\n\
         \x20 scgi_temp_path {dir}/scgi;\n\
         \x20 server {{\n{listen}    root {dir}/root;\n  }}\n\
         }}\n"
    )
}
