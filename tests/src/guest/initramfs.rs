//! The guest's first file system: busybox, modules, and a script that mounts the real root and runs
//! the command in it.
use std::{fs, path::Path, time::Duration};

use anyhow::{Context as _, Result};

use super::kernel::Kernel;

/// Tags of the directories shared with the guest (9p): this machine's root, and the one for
/// command and results.
pub(super) const ROOT_TAG: &str = "root";
/// See [`ROOT_TAG`].
pub(super) const SHARE_TAG: &str = "share";

/// Modules that the root file system, the lab's links and levee's questions to the kernel need.
/// There is no module loader in the guest.
const MODULES: &[&str] = &[
    "virtio_pci",
    "9pnet_virtio",
    "9p",
    "veth",
    "8021q",
    "inet_diag",
    "tcp_diag",
    "sch_ingress",
];

const FILE: u32 = 0o100_755;
const DIRECTORY: u32 = 0o040_755;

/// An archive in cpio's "new ASCII" format, which the kernel unpacks at boot
/// (Documentation/driver-api/early-userspace/buffer-format.rst).
#[derive(Debug, Default)]
struct Archive {
    bytes: Vec<u8>,
}

pub(super) fn build(kernel: &Kernel, busybox: &Path, limit: Duration) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for directory in ["dev", "proc", "sys", "root", "modules"] {
        archive.add(directory, DIRECTORY, &[])?;
    }
    let program = fs::read(busybox).with_context(|| format!("no {}", busybox.display()))?;
    archive.add("busybox", FILE, &program)?;
    let modules = kernel.modules(MODULES, busybox)?;
    for module in &modules {
        archive.add(&format!("modules/{}", module.name), FILE, &module.object)?;
    }
    let names: Vec<_> = modules.iter().map(|module| module.name.as_str()).collect();
    archive.add("init", FILE, init(&names, limit).as_bytes())?;
    archive.add("TRAILER!!!", 0, &[])?;
    Ok(archive.bytes)
}

/// The first process. Whatever it cannot do, it says on the console, and powers off: without the
/// share there is nowhere else to say it.
fn init(modules: &[&str], limit: Duration) -> String {
    let modules = modules.join(" ");
    let seconds = limit.as_secs();
    format!(
        r#"#!/busybox sh
end() {{
    echo "guest: $1"
    /busybox poweroff -f
}}
must() {{
    /busybox "$@" || end "failed: $*"
}}
must mount -t devtmpfs devtmpfs /dev
(
    /busybox sleep {seconds}
    end "not done after {seconds} s"
) &
for module in {modules}; do
    must insmod "/modules/$module"
done
must mount -t 9p -o ro,trans=virtio,version=9p2000.L,cache=loose,msize=524288 {ROOT_TAG} /root
must mount -t devtmpfs devtmpfs /root/dev
must mkdir -p /root/dev/pts /root/dev/shm
must mount -t devpts devpts /root/dev/pts
must mount -t proc proc /root/proc
must mount -t sysfs sysfs /root/sys
must mount -t bpf bpf /root/sys/fs/bpf
for directory in /root/dev/shm /root/tmp /root/run; do
    must mount -t tmpfs -o mode=1777 tmpfs "$directory"
done
must mkdir /root/run/levee-guest
must mount -t 9p -o trans=virtio,version=9p2000.L,cache=none,msize=524288 {SHARE_TAG} /root/run/levee-guest
must ip link set lo up
ulimit -H -n 1048576
/busybox chroot /root /bin/sh /run/levee-guest/command \
    </dev/null >>/root/run/levee-guest/output 2>&1
echo "$?" >/root/run/levee-guest/status
end "done"
"#
    )
}

impl Archive {
    fn add(&mut self, name: &str, mode: u32, content: &[u8]) -> Result<()> {
        let size = u32::try_from(content.len()).context("too large for an initramfs")?;
        let name_size = u32::try_from(name.len() + 1).context("name too long")?;
        // Serial number, mode, user, group, links, time, size, four device numbers, size of the
        // name, checksum.
        let fields = [0, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08X}").bytes());
        }
        self.bytes.extend(name.bytes().chain([0]));
        self.align();
        self.bytes.extend(content);
        self.align();
        Ok(())
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_entry_has_the_kernels_format() {
        let mut archive = Archive::default();
        archive.add("ab", FILE, b"xyz").unwrap();
        let expected = "070701\
            00000000000081ED0000000000000000\
            00000001000000000000000300000000\
            00000000000000000000000000000003\
            00000000ab\0\0\0\0xyz\0";
        // The header is 110 bytes, the name 3: padded to 116.
        assert_eq!(String::from_utf8(archive.bytes).unwrap(), expected);
    }

    #[test]
    fn the_script_is_one_that_a_shell_accepts() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("init");
        fs::write(&file, init(&["veth"], Duration::from_secs(9))).unwrap();
        let status = std::process::Command::new("sh")
            .arg("-n")
            .arg(&file)
            .status();
        assert!(status.unwrap().success());
    }
}
