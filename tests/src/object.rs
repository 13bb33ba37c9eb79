//! The lab's eBPF object, loaded afresh for every use so that globals differ per use.
use anyhow::{Context as _, Result};
use aya::{
    Ebpf, EbpfLoader, include_bytes_aligned,
    programs::{
        Program, ProgramError, SchedClassifier, TcAttachType, Xdp, XdpMode, tc::TcAttachOptions,
        xdp::XdpLinkId,
    },
};

use crate::netns::Netns;

static OBJECT: &[u8] = include_bytes_aligned!(env!("LEVEE_LAB_OBJECT"));

/// A loaded copy of the lab's object. Dropping it detaches its programs.
#[derive(Debug)]
pub struct Object(Ebpf);

/// A global of the lab's programs: name and value.
pub type Global<'a> = (&'a str, u32);

impl Object {
    /// Loads the maps and sets the globals.
    ///
    /// # Errors
    /// Fails without CAP_BPF, or when a global does not exist.
    pub fn load(globals: &[Global<'_>]) -> Result<Self> {
        Self::load_with(globals, |_| {})
    }

    /// As `load`, with more set on the loader: globals of other types, map sizes.
    ///
    /// # Errors
    /// As `load`.
    pub fn load_with<'a>(
        globals: &'a [Global<'a>],
        configure: impl FnOnce(&mut EbpfLoader<'a>),
    ) -> Result<Self> {
        let mut loader = EbpfLoader::new();
        for (name, value) in globals {
            loader.override_global(name, value, true);
        }
        configure(&mut loader);
        let ebpf = loader
            .load(OBJECT)
            .context("cannot load the lab's eBPF object (root needed)")?;
        Ok(Self(ebpf))
    }

    /// The maps and programs.
    pub fn ebpf(&mut self) -> &mut Ebpf {
        &mut self.0
    }

    /// Loads the XDP program `name` and returns it, for `BPF_PROG_TEST_RUN`.
    ///
    /// # Errors
    /// Fails when there is no such program or the verifier refuses it.
    pub fn xdp(&mut self, name: &str) -> Result<&mut Xdp> {
        self.program(name, |program: &Xdp| program.fd().is_ok(), Xdp::load)
    }

    /// The program `name`, loaded by `load` unless it `is_loaded`: what aya's types of programs have
    /// in common is no trait.
    fn program<'a, P>(
        &'a mut self,
        name: &str,
        is_loaded: impl FnOnce(&P) -> bool,
        load: impl FnOnce(&mut P) -> Result<(), ProgramError>,
    ) -> Result<&'a mut P>
    where
        &'a mut P: TryFrom<&'a mut Program, Error = ProgramError>,
    {
        let program: &mut P = self
            .0
            .program_mut(name)
            .with_context(|| format!("no program {name} in the lab's object"))?
            .try_into()?;
        if !is_loaded(program) {
            load(program).with_context(|| format!("cannot load {name}"))?;
        }
        Ok(program)
    }

    /// Attaches the XDP program `name` to an interface of a namespace.
    ///
    /// # Errors
    /// Fails when the interface does not exist or has an XDP program already.
    pub fn attach_xdp(
        &mut self,
        netns: &Netns,
        interface: &str,
        name: &str,
        mode: XdpMode,
    ) -> Result<XdpLinkId> {
        let program = self.xdp(name)?;
        netns.run(|| {
            program
                .attach(interface, mode)
                .with_context(|| format!("cannot attach {name} to {interface} in {}", netns.name()))
        })
    }

    /// Attaches the TC program `name` to an interface of a namespace.
    ///
    /// # Errors
    /// Fails when the interface does not exist.
    pub fn attach_tc(
        &mut self,
        netns: &Netns,
        interface: &str,
        name: &str,
        direction: TcAttachType,
        options: TcAttachOptions,
    ) -> Result<()> {
        let program = self.program(
            name,
            |program: &SchedClassifier| program.fd().is_ok(),
            SchedClassifier::load,
        )?;
        netns.run(|| {
            program
                .attach_with_options(interface, direction, options)
                .map(drop)
                .with_context(|| format!("cannot attach {name} to {interface} in {}", netns.name()))
        })
    }
}
