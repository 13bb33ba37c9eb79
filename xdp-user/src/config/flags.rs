//! A configuration given on the command line.

use std::path::PathBuf;

use super::{
    CONTROL_SOCKET, Config, ConfigError, Interface, METRICS_LISTEN, ProxyGlobals, SECRET_FILE,
    SpliceGlobals, error::Problems, field, validate,
};
use crate::pins;

/// The flags of `levee run` that stand in for a file, as typed.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// `--iface`.
    pub interfaces: Vec<String>,
    /// `--protect`.
    pub protect: Vec<String>,
    /// `--metrics`.
    pub metrics: Option<String>,
    /// `--secret-file`.
    pub secret_file: Option<PathBuf>,
    /// `--control-socket`.
    pub control_socket: Option<PathBuf>,
    /// `--pin-dir`.
    pub pin_dir: Option<PathBuf>,
}

impl Flags {
    /// Validates the flags.
    ///
    /// # Errors
    /// Fails with every problem found, under the name "command line".
    pub fn into_config(self) -> Result<Config, ConfigError> {
        let mut problems = Problems::new("");
        let metrics = self.metrics.as_deref().unwrap_or(METRICS_LISTEN);
        let metrics_listen = judge(&mut problems, "--metrics", field::metrics_listen(metrics));
        let interfaces = self.interfaces.iter().filter_map(|name| {
            let name = judge(&mut problems, "--iface", field::interface_name(name))?;
            let attach = Default::default();
            Some((None, Interface { name, attach }))
        });
        let interfaces: Vec<_> = interfaces.collect();
        let services = self.protect.iter().filter_map(|text| {
            let address = judge(&mut problems, "--protect", field::service_address(text))?;
            Some((None, validate::plain_service(address)))
        });
        let services: Vec<_> = services.collect();
        let interfaces = validate::interfaces(&mut problems, "--iface", interfaces);
        let services = validate::services(&mut problems, "--protect", services);
        let secret_file = judge(
            &mut problems,
            "--secret-file",
            field::typed_path(self.secret_file, SECRET_FILE, field::judge_path),
        );
        let control_socket = judge(
            &mut problems,
            "--control-socket",
            field::typed_path(
                self.control_socket,
                CONTROL_SOCKET,
                field::judge_socket_path,
            ),
        );
        let control_socket = control_socket.unwrap_or_default();
        let pin_dir = match self.pin_dir {
            None => Some(Some(pins::default_directory(&control_socket))),
            Some(typed) => judge(&mut problems, "--pin-dir", field::typed_pin_dir(typed)),
        };
        problems.finish("command line")?;
        Ok(Config {
            secret_file: secret_file.unwrap_or_default(),
            control_socket,
            pin_dir: pin_dir.flatten(),
            verify_syn_checksum: true,
            metrics_listen: metrics_listen.flatten(),
            interfaces,
            proxy: ProxyGlobals::default(),
            splice: SpliceGlobals::default(),
            services,
        })
    }
}

fn judge<T>(problems: &mut Problems<'_>, flag: &str, judged: field::Judged<T>) -> Option<T> {
    judged
        .map_err(|message| problems.add(None, flag, message))
        .ok()
}
