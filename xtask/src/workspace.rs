//! Where things are.

use std::{
    env,
    path::{Path, PathBuf},
};

/// The directories xtask works in.
pub(crate) struct Workspace {
    /// The workspace's root.
    pub(crate) root: PathBuf,
    /// Cargo's target directory, also where everything that is installed goes.
    pub(crate) target: PathBuf,
    /// Where the host crates' build scripts find `levee.o` and `lab.o`, if it is not the place
    /// they look in unasked.
    bpf_dir: Option<PathBuf>,
}

impl Workspace {
    /// The workspace this xtask was compiled in; `CARGO_TARGET_DIR` and `LEVEE_BPF_DIR` are
    /// honoured, relative ones from the current directory, as cargo does.
    pub(crate) fn find() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .expect("xtask is a directory of the workspace")
            .to_owned();
        let from_env = |name| {
            let value = env::var_os(name).filter(|value| !value.is_empty())?;
            Some(std::path::absolute(&value).unwrap_or_else(|_| PathBuf::from(value)))
        };
        let target = from_env("CARGO_TARGET_DIR");
        let bpf_dir =
            from_env("LEVEE_BPF_DIR").or_else(|| target.as_ref().map(|target| target.join("bpf")));
        let target = target.unwrap_or_else(|| root.join("target"));
        Self {
            root,
            target,
            bpf_dir,
        }
    }

    /// Where installed tools go.
    pub(crate) fn tools(&self) -> PathBuf {
        self.target.join("tools")
    }

    /// Cargo's target directory of the eBPF build. Not the host's: the two builds differ in flags
    /// and must not wait for each other's lock.
    pub(crate) fn bpf_target(&self) -> PathBuf {
        self.target.join("bpf")
    }

    /// Where the finished objects go.
    pub(crate) fn objects(&self) -> PathBuf {
        self.bpf_dir.clone().unwrap_or_else(|| self.bpf_target())
    }

    /// What `LEVEE_BPF_DIR` must be for the host build, or `None` where its default is right.
    pub(crate) fn objects_override(&self) -> Option<&Path> {
        self.bpf_dir.as_deref()
    }

    /// A binary built in release mode.
    pub(crate) fn release_binary(&self, name: &str) -> PathBuf {
        self.target.join("release").join(name)
    }

    /// The cargo that runs this xtask.
    pub(crate) fn cargo() -> PathBuf {
        env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from)
    }
}
