//! apt without root: package lists of its own, and packages unpacked instead of installed.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{process, workspace::Workspace};

/// A package at a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
}

/// The keys of all Debian releases that are supported, and of the next.
const DEBIAN_KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// apt with package lists of its own, so that it needs no root and never asks old lists.
pub(crate) struct Apt {
    dir: PathBuf,
    /// A list of sources instead of the system's.
    sources: Option<PathBuf>,
}

impl Apt {
    /// Fetches the lists of the system's sources.
    pub(crate) fn open(workspace: &Workspace) -> Result<Self> {
        Self::prepare(workspace)?.update()
    }

    /// Fetches the lists of another Debian release, from where the system's are fetched.
    pub(crate) fn open_release(workspace: &Workspace, codename: &str) -> Result<Self> {
        // Which of the sources is which, their lists tell.
        let mut apt = Self::open(workspace)?;
        let format = "$(REPO_URI) $(LABEL)";
        let targets =
            process::output(
                apt.command("apt-get")
                    .args(["indextargets", "--format", format]),
            )?;
        let mirror = targets
            .lines()
            .find_map(|line| line.strip_suffix(" Debian"));
        let mirror = mirror.context(
            "none of apt's sources is Debian's main archive, so its other releases cannot be found",
        )?;
        let sources = apt.dir.join("sources.list");
        let line = format!("deb [signed-by={DEBIAN_KEYRING}] {mirror} {codename} main\n");
        fs::write(&sources, line).context("cannot write a list of sources")?;
        apt.sources = Some(sources);
        apt.update()
    }

    fn update(self) -> Result<Self> {
        process::run(self.command("apt-get").args(["-q", "update"]))?;
        Ok(self)
    }

    fn prepare(workspace: &Workspace) -> Result<Self> {
        for program in ["apt-get", "apt-cache", "dpkg", "dpkg-query"] {
            if process::find_program(program).is_none() {
                bail!("{program} is missing, so the distribution's packages cannot be used");
            }
        }
        let dir = workspace.tools().join("apt");
        for sub in ["lists/partial", "cache/archives/partial"] {
            let sub = dir.join(sub);
            fs::create_dir_all(&sub).with_context(|| format!("cannot create {}", sub.display()))?;
        }
        let apt = Self { dir, sources: None };
        File::create(apt.status()).context("cannot create an empty dpkg status file")?;
        Ok(apt)
    }

    /// A list of installed packages that names none: what is installed cannot conflict then, and
    /// the answer to "what would be installed" is all that is needed.
    fn status(&self) -> PathBuf {
        self.dir.join("status")
    }

    /// `apt-get` or `apt-cache` on our lists.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let option = |name: &str, value: &Path| format!("{name}={}", value.display());
        command
            .args(["-o", &option("Dir::State", &self.dir)])
            .args(["-o", &option("Dir::State::lists", &self.dir.join("lists"))])
            .args(["-o", &option("Dir::State::status", &self.status())])
            .args(["-o", &option("Dir::Cache", &self.dir.join("cache"))])
            // The user apt drops to when it is root cannot write into our directory.
            .args(["-o", "APT::Sandbox::User=root"]);
        if let Some(sources) = &self.sources {
            command
                .args(["-o", &option("Dir::Etc::sourcelist", sources)])
                .args(["-o", "Dir::Etc::sourceparts=/dev/null"]);
        }
        command
    }

    /// The version of `name` that would be installed.
    pub(crate) fn candidate(&self, name: &str) -> Result<Option<String>> {
        let text = process::output(self.command("apt-cache").args(["policy", name]))?;
        let version = text
            .lines()
            .find_map(|line| line.trim().strip_prefix("Candidate: "));
        Ok(version
            .filter(|version| *version != "(none)")
            .map(str::to_owned))
    }

    /// What `apt-get install` would install on a system that has nothing.
    pub(crate) fn closure(&self, names: &[&str]) -> Result<Vec<Package>> {
        let mut simulation = self.command("apt-get");
        simulation
            .args(["install", "-s", "--no-install-recommends"])
            .args(names);
        Ok(parse_simulation(&process::output(&mut simulation)?))
    }

    /// Fetches the packages, unpacks them into `dir` (all or nothing) and tidies up.
    pub(crate) fn unpack(&self, packages: &[Package], dir: &Path) -> Result<()> {
        let fetched = self.dir.join("fetched");
        let partial = dir.with_extension("partial");
        for scratch in [&fetched, &partial] {
            remove(scratch)?;
            fs::create_dir_all(scratch)
                .with_context(|| format!("cannot create {}", scratch.display()))?;
        }
        let mut download = self.command("apt-get");
        download.args(["-q", "download"]).current_dir(&fetched);
        download.args(packages.iter().map(|p| format!("{}={}", p.name, p.version)));
        process::run(&mut download)?;
        for entry in fs::read_dir(&fetched).context("cannot list the fetched packages")? {
            let deb = entry.context("cannot list the fetched packages")?.path();
            process::run(Command::new("dpkg").arg("-x").arg(deb).arg(&partial))?;
        }
        remove(dir)?;
        fs::rename(&partial, dir)
            .with_context(|| format!("cannot rename {} into place", partial.display()))?;
        remove(&self.dir)
    }
}

/// Removes a directory that may be there.
fn remove(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}

/// The packages in the output of `apt-get install -s`: `Inst NAME (VERSION ARCHIVE [ARCH])`.
fn parse_simulation(text: &str) -> Vec<Package> {
    text.lines()
        .filter_map(|line| {
            let (name, rest) = line.strip_prefix("Inst ")?.split_once(' ')?;
            let version = rest.split_once('(')?.1.split_whitespace().next()?;
            Some(Package {
                name: name.into(),
                version: version.into(),
            })
        })
        .collect()
}

/// The names of the installed packages.
pub(crate) fn installed() -> Result<Vec<String>> {
    let format = "-f=${db:Status-Status} ${Package}\\n";
    let text = process::output(Command::new("dpkg-query").args(["-W", format]))?;
    Ok(text
        .lines()
        .filter_map(|line| line.strip_prefix("installed "))
        .map(str::to_owned)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_simulated_installation() {
        let text = "NOTE: This is only a simulation!\n\
                    Inst libllvm22 (1:22.1.8-1~deb12u1 Debian-Security:12/oldstable [amd64])\n\
                    Inst libc6 [2.36-8] (2.36-9 Debian:12.15/oldstable [amd64]) []\n\
                    Conf libllvm22 (1:22.1.8-1~deb12u1 Debian-Security:12/oldstable [amd64])\n";
        let packages = parse_simulation(text);
        assert_eq!(packages.len(), 2);
        assert_eq!(packages[0].name, "libllvm22");
        assert_eq!(packages[0].version, "1:22.1.8-1~deb12u1");
        assert_eq!(packages[1].version, "2.36-9");
    }
}
