//! Puts the programs on the interfaces, in the place of those of an earlier controller where there
//! are any.

use std::io;

use anyhow::{Context as _, Result, anyhow};
use aya::{
    Ebpf,
    programs::{
        LinkOrder, ProgramError, SchedClassifier, TcAttachType, XdpMode,
        tc::{SchedClassifierLink, TcAttachOptions},
        xdp::XdpLink,
    },
};
use nix::errno::Errno;

use crate::{
    config::Attach,
    loader,
    netlink::link::{self, Link},
    pins::{self, Attached, Pins},
};

/// How the XDP program ended up attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// In the driver.
    Native,
    /// In the kernel's stack.
    Generic,
}

impl Attach {
    /// Whether a program may stay attached that way.
    const fn allows(self, mode: Mode) -> bool {
        match self {
            Self::Auto => true,
            Self::Native => matches!(mode, Mode::Native),
            Self::Generic => matches!(mode, Mode::Generic),
        }
    }
}

impl Mode {
    /// The metric label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }

    const fn flag(self) -> XdpMode {
        match self {
            Self::Native => XdpMode::Driver,
            Self::Generic => XdpMode::Skb,
        }
    }
}

/// The programs on one interface.
#[derive(Debug)]
pub struct Attachment {
    /// The interface.
    pub link: Link,
    /// How the XDP program is attached.
    pub mode: Mode,
    /// The kernel's id of the XDP program.
    pub program_id: u32,
    // `None` once detached. Before `tc`, and so dropped first.
    xdp: Option<Attached<XdpLink>>,
    tc: Option<Attached<SchedClassifierLink>>,
}

impl Attachment {
    /// Attaches both programs to an interface, or replaces those that are pinned for it: TC first,
    /// so that nobody is answered who could not be admitted.
    ///
    /// # Errors
    /// Fails when the kernel refuses one of them; then nothing that was not there before is left
    /// attached.
    pub fn new(ebpf: &mut Ebpf, link: &Link, attach: Attach, pins: &mut Pins) -> Result<Self> {
        let (index, name) = (link.index, pins::tc_name(link.index));
        let tc = attach_tc(loader::tc_program(ebpf)?, link, pins, &name, index)?;
        let (xdp, mode) = match replace_xdp(ebpf, link, attach, pins)? {
            Some(replaced) => replaced,
            None => {
                let (xdp, mode) = match attach {
                    Attach::Native => (attach_native(ebpf, link)?, Mode::Native),
                    Attach::Generic => (attach_xdp(ebpf, link, Mode::Generic)?, Mode::Generic),
                    Attach::Auto => attach_auto(ebpf, link)?,
                };
                let name = pins::xdp_name(mode, link.index);
                (pins.hold(&name, xdp, false)?, mode)
            }
        };
        Ok(Self {
            link: link.clone(),
            mode,
            program_id: loader::xdp_program(ebpf)?.info()?.id(),
            xdp: Some(xdp),
            tc: Some(tc),
        })
    }

    /// Detaches both programs.
    pub fn detach(&mut self) {
        if let Some(xdp) = self.xdp.take() {
            xdp.detach();
        }
        if let Some(tc) = self.tc.take() {
            tc.detach();
        }
    }
}

/// Attaches a TC program, or puts it in the place of the one whose link is pinned under `name`.
/// `index` is the protected interface that the device is, or is on top of.
///
/// # Errors
/// Fails when the kernel refuses.
pub fn attach_tc(
    program: &mut SchedClassifier,
    link: &Link,
    pins: &mut Pins,
    name: &str,
    index: u32,
) -> Result<Attached<SchedClassifierLink>> {
    if let Some(former) = pins.adopt::<SchedClassifierLink>(name, index)? {
        match program.attach_to_link(former) {
            Ok(id) => return pins.hold(name, program.take_link(id)?, true),
            // Of a device that is gone, whose index this one has got.
            Err(error) if is_dead(&error) => {}
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("cannot replace the TC program on {}", link.name));
            }
        }
    }
    let id = program
        .attach_with_options(
            &link.name,
            TcAttachType::Ingress,
            // Before other programs, which might redirect what has to be admitted here.
            TcAttachOptions::TcxOrder(LinkOrder::first()),
        )
        .with_context(|| format!("cannot attach the TC program to {}", link.name))?;
    let attached = program.take_link(id)?;
    pins.hold(name, attached, false)
}

/// Whether a link is attached to nothing any more.
fn is_dead(error: &ProgramError) -> bool {
    let ProgramError::SyscallError(error) = error else {
        return false;
    };
    error.io_error.raw_os_error() == Some(Errno::ENOLINK as i32)
}

/// Puts the XDP program in the place of the pinned one; `None` when there is none. One that is
/// attached in another mode than configured is taken off: the kernel cannot change the mode.
fn replace_xdp(
    ebpf: &mut Ebpf,
    link: &Link,
    attach: Attach,
    pins: &mut Pins,
) -> Result<Option<(Attached<XdpLink>, Mode)>> {
    let Some(mode) = pins.mode(link.index) else {
        return Ok(None);
    };
    let name = pins::xdp_name(mode, link.index);
    let Some(former) = pins.adopt::<XdpLink>(&name, link.index)? else {
        return Ok(None);
    };
    if !attach.allows(mode) {
        log::warn!(
            "{}: the XDP program was attached in {} mode, which is not what is configured: it is \
             taken off and attached again, and meanwhile nothing is answered",
            link.name,
            mode.label()
        );
        pins.hold(&name, former, true)?.detach();
        return Ok(None);
    }
    let program = loader::xdp_program(ebpf)?;
    let id = program
        .attach_to_link(former)
        .with_context(|| format!("cannot replace the XDP program on {}", link.name))?;
    let attached = program.take_link(id)?;
    Ok(Some((pins.hold(&name, attached, true)?, mode)))
}

fn attach_native(ebpf: &mut Ebpf, link: &Link) -> Result<XdpLink> {
    if loses_answers(link) {
        log::warn!(
            "{}: the other end of this veth pair has no XDP program: until it has, the kernel \
             loses what levee answers",
            link.name
        );
    }
    attach_xdp(ebpf, link, Mode::Native)
}

fn attach_auto(ebpf: &mut Ebpf, link: &Link) -> Result<(XdpLink, Mode)> {
    if loses_answers(link) {
        log::warn!(
            "{0}: the other end of this veth pair has no XDP program, without which the kernel \
             loses what is answered in the driver. levee attaches in generic mode, several times \
             slower. For native mode, attach any program there first (xdp-loader load -m native \
             PEER -s xdp_pass ...), then restart levee",
            link.name
        );
        return Ok((attach_xdp(ebpf, link, Mode::Generic)?, Mode::Generic));
    }
    let error = match attach_xdp(ebpf, link, Mode::Native) {
        Ok(xdp) => return Ok((xdp, Mode::Native)),
        Err(error) if is_driver_limit(&error) => error,
        Err(error) => return Err(error),
    };
    log::warn!(
        "{}: the driver cannot run XDP programs as things are ({:#}). levee attaches in generic \
         mode, several times slower. What may help: a driver with native XDP, an MTU of at most \
         3498 bytes, no LRO (`ethtool -K {} lro off`)",
        link.name,
        error.root_cause(),
        link.name
    );
    let xdp = attach_xdp(ebpf, link, Mode::Generic)?;
    Ok((xdp, Mode::Generic))
}

/// Whether frames that a program in the driver answers would not arrive: a veth's other end takes
/// them only if it runs an XDP program itself (`veth_xdp_flush` in drivers/net/veth.c).
fn loses_answers(link: &Link) -> bool {
    let Some(peer) = link.peer else {
        return false;
    };
    match link::peer(peer) {
        Ok(peer) => peer.xdp.is_empty(),
        Err(error) => {
            log::debug!("{}: {error:#}", link.name);
            true
        }
    }
}

/// Whether generic mode may work where native mode failed.
fn is_driver_limit(error: &anyhow::Error) -> bool {
    !matches!(
        errno(error),
        Some(Errno::EBUSY | Errno::EEXIST | Errno::EPERM | Errno::ENODEV)
    )
}

/// The error number at the root of an error, if it came from a system call.
fn errno(error: &anyhow::Error) -> Option<Errno> {
    let code = error
        .root_cause()
        .downcast_ref::<io::Error>()?
        .raw_os_error()?;
    Some(Errno::from_raw(code))
}

fn attach_xdp(ebpf: &mut Ebpf, link: &Link, mode: Mode) -> Result<XdpLink> {
    let program = loader::xdp_program(ebpf)?;
    match program.attach_to_if_index(link.index, mode.flag()) {
        Ok(id) => Ok(program.take_link(id)?),
        Err(error) => Err(attach_error(error, link, mode)),
    }
}

fn attach_error(error: ProgramError, link: &Link, mode: Mode) -> anyhow::Error {
    let error = anyhow!(error);
    let what = format!(
        "cannot attach the XDP program to {} in {} mode",
        link.name,
        mode.label()
    );
    match errno(&error) {
        Some(Errno::EBUSY | Errno::EEXIST) => {
            error.context(format!("{what}: another XDP program is attached to it"))
        }
        Some(Errno::EOPNOTSUPP) => {
            error.context(format!("{what}: its driver does not support that"))
        }
        _ => error.context(what),
    }
}
