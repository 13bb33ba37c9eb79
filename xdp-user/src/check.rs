//! `levee check`: what can be said of a configuration without root, and without changing anything.

use std::{fmt::Write as _, io, path::Path};

use anyhow::Result;

use crate::{
    backends::check::Checker,
    config::Config,
    netlink::{link::links, route::is_local},
    preflight::Facts,
    secret::Secret,
    warnings,
};

/// A summary of a valid configuration file, and what on this machine does not go with it: it may
/// have been written for another one.
///
/// # Errors
/// As [`Config::read`].
pub fn report(file: &Path) -> Result<String> {
    let config = Config::read(file)?;
    let mut text = summary(file, &config)?;
    for note in notes(&config) {
        writeln!(text, "note: on this machine, {note}")?;
    }
    Ok(text)
}

fn summary(file: &Path, config: &Config) -> Result<String> {
    let mut text = format!("{}: valid\n", file.display());
    for interface in &config.interfaces {
        let mode = interface.attach.label();
        writeln!(text, "interface {}: mode {mode}", interface.name)?;
    }
    for service in &config.services {
        writeln!(text, "service {}: {}", service.name, service.address)?;
        for backend in service.pooled().iter().flat_map(|pooled| &pooled.backends) {
            match backend.target.to_string() {
                target if target == backend.name => writeln!(text, "  backend {target}")?,
                target => writeln!(text, "  backend {}: {target}", backend.name)?,
            }
        }
    }
    match config.metrics_listen {
        Some(address) => writeln!(text, "metrics: http://{address}/metrics")?,
        None => writeln!(text, "metrics: off")?,
    }
    writeln!(text, "secret file: {}", config.secret_file.display())?;
    writeln!(text, "control socket: {}", config.control_socket.display())?;
    match &config.pin_dir {
        Some(directory) => writeln!(text, "pins: {}", directory.display())?,
        None => writeln!(text, "pins: off")?,
    }
    Ok(text)
}

fn notes(config: &Config) -> Vec<String> {
    let mut notes = Vec::new();
    if let Err(error) = Facts::gather().and_then(|facts| facts.check_kernel().map(drop)) {
        notes.push(format!("{error:#}"));
    }
    notes.extend(interface_notes(config));
    let kernel_services = config.services.iter().filter(|s| s.splice().is_none());
    let addresses = kernel_services.map(|service| service.address.ip());
    let foreign: Vec<_> = addresses
        .filter(|ip| !is_local(*ip))
        .map(|ip| ip.to_string())
        .collect();
    if !foreign.is_empty() {
        let foreign = warnings::first(&foreign);
        notes.push(format!(
            "these service addresses are not assigned: {foreign}"
        ));
    }
    notes.extend(secret_note(&config.secret_file));
    notes.extend(check_notes(config));
    notes.extend(warnings::proxy::fd_note(config));
    notes.extend(warnings::proxy::warnings(config));
    notes.extend(warnings::splice::warnings(config));
    notes
}

fn interface_notes(config: &Config) -> Vec<String> {
    let links = match links() {
        Ok(links) => links,
        Err(error) => return vec![format!("{error:#}")],
    };
    let names = config.interfaces.iter().map(|i| i.name.as_str());
    let notes = names.flat_map(|name| match links.iter().find(|link| link.name == name) {
        Some(link) => warnings::of_link(link),
        None => vec![format!("there is no interface \"{name}\"")],
    });
    notes.collect()
}

/// What keeps backends from being checked.
fn check_notes(config: &Config) -> impl Iterator<Item = String> {
    config.services.iter().filter_map(|service| {
        let error = Checker::new(service.proxy()?).err()?;
        Some(format!("service {}: {error:#}", service.name))
    })
}

/// A secret that is not there is made at the start; one that only root may see is not judged.
fn secret_note(path: &Path) -> Option<String> {
    let error = Secret::load(path).err()?;
    let kind = error.root_cause().downcast_ref().map(io::Error::kind);
    match kind {
        Some(io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => None,
        _ => Some(format!("{error:#}")),
    }
}
