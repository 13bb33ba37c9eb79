//! Whether this machine can run levee, asked before anything is changed, so that every refusal
//! says what is missing. The questions are asked in [`Facts::gather`]; the judgement is pure.

use std::collections::HashSet;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use aya::Btf;
use aya_obj::btf::BtfKind;
use caps::{CapSet, Capability};
use xdp_common::abi::iface_slot;

use crate::{
    config,
    kfunc::{ASSIGN_TCP_REQSK, Kfunc},
    netlink::link::Link,
};

/// A function of the kernel that exists since tcx links do (Linux 6.6).
const TCX_FUNCTION: &str = "tcx_link_attach";

/// What levee needs to know of the machine.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Effective capabilities of this process.
    pub capabilities: HashSet<Capability>,
    /// As `uname -r` says.
    pub kernel_release: String,
    /// What the kernel's type information tells, or why there is none.
    pub btf: Result<BtfFacts, String>,
}

/// What the kernel's type information (BTF) tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BtfFacts {
    /// Id of [`ASSIGN_TCP_REQSK`].
    pub assign_tcp_reqsk: Option<u32>,
    /// Whether TC programs can be attached by tcx links.
    pub tcx: bool,
}

/// What a machine that passed offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// BTF id of [`ASSIGN_TCP_REQSK`].
    pub assign_tcp_reqsk: u32,
}

impl Facts {
    /// Asks the machine.
    ///
    /// # Errors
    /// Fails when it does not answer; what it lacks is judged by [`check`](Self::check).
    pub fn gather() -> Result<Self> {
        let capabilities = caps::read(None, CapSet::Effective)
            .map_err(|error| anyhow!("cannot read this process's capabilities: {error}"))?;
        let uname = nix::sys::utsname::uname().context("uname")?;
        Ok(Self {
            capabilities: capabilities.into_iter().collect(),
            kernel_release: uname.release().to_string_lossy().into_owned(),
            btf: BtfFacts::gather().map_err(|error| format!("{error:#}")),
        })
    }

    /// Judges the machine.
    ///
    /// # Errors
    /// Names everything that is missing, and the kernel version that has it.
    pub fn check(&self) -> Result<Kernel> {
        self.check_capabilities()?;
        self.check_kernel()
    }

    /// Judges the kernel, whatever this process may do with it.
    ///
    /// # Errors
    /// Names every feature that is missing, and the kernel version that has it.
    pub fn check_kernel(&self) -> Result<Kernel> {
        let release = &self.kernel_release;
        let btf = self.btf.as_ref().map_err(|error| {
            anyhow!(
                "this kernel ({release}) has no type information at /sys/kernel/btf/vmlinux, which \
                 levee needs: use a kernel with CONFIG_DEBUG_INFO_BTF, as distributions build it \
                 ({error})"
            )
        })?;
        let mut missing = Vec::new();
        if !btf.tcx {
            missing.push("tcx links for TC programs (Linux 6.6)".to_owned());
        }
        if btf.assign_tcp_reqsk.is_none() {
            let Kfunc { name, .. } = ASSIGN_TCP_REQSK;
            missing.push(format!("{name} (Linux 6.9, with CONFIG_SYN_COOKIES)"));
        }
        match btf.assign_tcp_reqsk {
            Some(assign_tcp_reqsk) if missing.is_empty() => Ok(Kernel { assign_tcp_reqsk }),
            _ => bail!(
                "this kernel ({release}) is too old to protect a server that runs on it: it lacks \
                 {}. This version of levee has no other mode; `levee check` still works here",
                missing.join(" and ")
            ),
        }
    }

    fn check_capabilities(&self) -> Result<()> {
        let has = |capability| self.capabilities.contains(&capability);
        let mut missing = Vec::new();
        if !has(Capability::CAP_NET_ADMIN) {
            missing.push("CAP_NET_ADMIN");
        }
        if !has(Capability::CAP_SYS_ADMIN) {
            if !has(Capability::CAP_BPF) {
                missing.push("CAP_BPF");
            }
            // Without it the verifier forbids comparing packet pointers in loops.
            if !has(Capability::CAP_PERFMON) {
                missing.push("CAP_PERFMON");
            }
        }
        ensure!(
            missing.is_empty(),
            "missing {} {}: run levee as root (sudo), or give it CAP_NET_ADMIN, CAP_BPF and \
             CAP_PERFMON",
            if missing.len() == 1 {
                "capability"
            } else {
                "capabilities"
            },
            missing.join(", ")
        );
        Ok(())
    }
}

impl BtfFacts {
    fn gather() -> Result<Self> {
        let btf = Btf::from_sys_fs()?;
        let function = |name| btf.id_by_type_name_kind(name, BtfKind::Func).ok();
        Ok(Self {
            assign_tcp_reqsk: function(ASSIGN_TCP_REQSK.name),
            tcx: function(TCX_FUNCTION).is_some(),
        })
    }
}

/// Finds the configured interfaces among those of the machine, in the order configured.
/// `program_name` gives the name of a loaded eBPF program by its id.
///
/// # Errors
/// Names an interface that does not exist, with those that do; one that is not Ethernet; one that another XDP program is
/// attached to, with that program; and two that would share counters.
pub fn resolve<'a>(
    wanted: &[config::Interface],
    links: &'a [Link],
    program_name: impl Fn(u32) -> Option<String>,
) -> Result<Vec<&'a Link>> {
    let mut found: Vec<&Link> = Vec::new();
    for interface in wanted {
        let name = &interface.name;
        let Some(link) = links.iter().find(|link| link.name == *name) else {
            let names: Vec<_> = links.iter().map(|link| link.name.as_str()).collect();
            bail!(
                "there is no interface \"{name}\"; there are: {}",
                names.join(", ")
            );
        };
        ensure!(
            link.ethernet,
            "{name} is no Ethernet interface: levee reads Ethernet frames only"
        );
        check_free(link, &program_name)?;
        let slot = |link: &Link| iface_slot(link.index);
        if let Some(other) = found.iter().find(|other| slot(other) == slot(link)) {
            bail!(
                "the interfaces {} (index {}) and {name} (index {}) cannot be protected by one \
                 levee: their indexes are equal modulo {}; remake one of them, or run a levee for \
                 each",
                other.name,
                other.index,
                link.index,
                xdp_common::abi::IFACES_MAX
            );
        }
        found.push(link);
    }
    Ok(found)
}

fn check_free(link: &Link, program_name: impl Fn(u32) -> Option<String>) -> Result<()> {
    let [first, ..] = link.xdp[..] else {
        return Ok(());
    };
    let program = match program_name(first) {
        Some(name) => format!("\"{name}\" (id {first})"),
        None => format!("id {first}"),
    };
    let name = &link.name;
    bail!(
        "another XDP program is attached to {name} already: {program}. Stop what attached it (a \
         second levee?), or detach it with `ip link set dev {name} xdp off`; `bpftool net` shows \
         what is attached where"
    );
}

#[cfg(test)]
mod tests;
