//! What the kernel's own sockets would offer in a SYN-ACK, so that a client sees no difference and
//! is never promised more than the server's socket can do.

use std::{fs, io, path::Path, str::FromStr};

use anyhow::{Context as _, Result, ensure};
use xdp_common::abi::{OFFER_ECN, OFFER_SACK, OFFER_TIMESTAMPS, OFFER_WINDOW_SCALE};

/// `net.core.rmem_max` where a namespace does not show it: the kernel's default.
const RMEM_MAX_DEFAULT: u64 = 212_992;

/// IP and TCP headers without options, bytes.
const HEADERS_V4: u32 = 40;
const HEADERS_V6: u32 = 60;

/// What the timestamps option takes of every segment, bytes (RFC 7323 appendix A).
const TIMESTAMPS_LEN: u16 = 12;

/// The settings of the kernel that shape a SYN-ACK, of one network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sysctls {
    /// `net.ipv4.tcp_timestamps`.
    pub timestamps: bool,
    /// `net.ipv4.tcp_sack`.
    pub sack: bool,
    /// `net.ipv4.tcp_window_scaling`.
    pub window_scaling: bool,
    /// `net.ipv4.tcp_ecn`: anything but 0 agrees to ECN when the client asks for it.
    pub ecn: bool,
    /// `net.ipv4.tcp_rmem`: the receive buffer by default and at most, bytes.
    pub rmem: (u64, u64),
    /// `net.core.rmem_max`, bytes.
    pub rmem_max: u64,
}

/// What a SYN-ACK may offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelOffer {
    /// `OFFER_*` of `xdp_common::abi`.
    pub flags: u8,
    /// The window scale that the kernel picks for its sockets.
    pub window_scale: u8,
    /// The window that a fresh socket has room for, bytes.
    pub receive_space: u32,
    /// MSS that the interfaces' MTU leaves for IPv4, bytes.
    pub mss_v4: u16,
    /// MSS that the interfaces' MTU leaves for IPv6, bytes.
    pub mss_v6: u16,
}

impl Sysctls {
    /// Reads those of the network namespace that levee runs in.
    ///
    /// # Errors
    /// Names the setting that cannot be read or understood, or with which no client could be
    /// admitted.
    pub fn read() -> Result<Self> {
        Self::read_from(Path::new("/proc/sys/net"))
    }

    fn read_from(root: &Path) -> Result<Self> {
        let flag = |name| Ok::<_, anyhow::Error>(number::<u64>(root, name)? != 0);
        // `cookie_v4_check` and `cookie_v6_check` look at it before anything else.
        ensure!(
            flag("ipv4/tcp_syncookies")?,
            "net.ipv4.tcp_syncookies is 0, allowed are 1 and 2: with 0 the kernel makes no socket of \
             a cookie, whoever issued it. Set it with `sysctl -w net.ipv4.tcp_syncookies=1`"
        );
        let rmem: Vec<u64> = numbers(root, "ipv4/tcp_rmem")?;
        let [_, default, max] = rmem[..] else {
            anyhow::bail!("net.ipv4.tcp_rmem holds {} numbers, not 3", rmem.len());
        };
        let rmem_max = root.join("core/rmem_max");
        let rmem_max = match fs::exists(&rmem_max) {
            // Older kernels show it in the first namespace only.
            Ok(false) => RMEM_MAX_DEFAULT,
            _ => number(root, "core/rmem_max")?,
        };
        Ok(Self {
            timestamps: flag("ipv4/tcp_timestamps")?,
            sack: flag("ipv4/tcp_sack")?,
            window_scaling: flag("ipv4/tcp_window_scaling")?,
            ecn: flag("ipv4/tcp_ecn")?,
            rmem: (default, max),
            rmem_max,
        })
    }
}

fn number<T: FromStr<Err: Into<anyhow::Error>>>(root: &Path, name: &str) -> Result<T> {
    let mut numbers = numbers(root, name)?.into_iter();
    numbers
        .next()
        .with_context(|| format!("net.{} is empty", name.replace('/', ".")))
}

fn numbers<T: FromStr<Err: Into<anyhow::Error>>>(root: &Path, name: &str) -> Result<Vec<T>> {
    let read = || -> Result<Vec<T>> {
        let text: io::Result<String> = fs::read_to_string(root.join(name));
        text?
            .split_ascii_whitespace()
            .map(|word| word.parse().map_err(Into::into))
            .collect()
    };
    read().with_context(|| format!("cannot read the setting net.{}", name.replace('/', ".")))
}

impl KernelOffer {
    /// As the kernel decides (`tcp_select_initial_window`, `ipv4_default_advmss`), for interfaces
    /// of which the smallest MTU is `mtu` bytes.
    #[must_use]
    pub fn new(sysctls: &Sysctls, mtu: u32) -> Self {
        let flag = |set, bit| if set { bit } else { 0 };
        let space_max = sysctls.rmem.1.max(sysctls.rmem_max);
        let window_scale = match space_max.checked_ilog2() {
            Some(bits) if sysctls.window_scaling => bits.saturating_sub(15).min(14) as u8,
            _ => 0,
        };
        // Half of the buffer is for data until the kernel knows its packets' overhead
        // (TCP_DEFAULT_SCALING_RATIO).
        let receive_space = u32::try_from(sysctls.rmem.0 / 2).unwrap_or(u32::MAX);
        Self {
            flags: flag(sysctls.timestamps, OFFER_TIMESTAMPS)
                | flag(sysctls.sack, OFFER_SACK)
                | flag(sysctls.window_scaling, OFFER_WINDOW_SCALE)
                | flag(sysctls.ecn, OFFER_ECN),
            window_scale,
            receive_space,
            mss_v4: mss(mtu, HEADERS_V4, 536),
            mss_v6: mss(mtu, HEADERS_V6, 1220),
        }
    }

    /// The window of a SYN-ACK with this MSS, bytes: whole segments, as far as the unscaled field
    /// goes (RFC 7323 2.2).
    #[must_use]
    pub fn window(&self, mss: u16) -> u16 {
        let timestamps = self.flags & OFFER_TIMESTAMPS != 0;
        let segment = if timestamps {
            mss - TIMESTAMPS_LEN
        } else {
            mss
        };
        let segment = u32::from(segment);
        let whole = match self.receive_space / segment {
            0 => self.receive_space,
            segments => segments * segment,
        };
        u16::try_from(whole).unwrap_or(u16::MAX)
    }
}

/// MSS for an MTU; not less than what every host takes (RFC 9293 3.7.1, RFC 8200 5).
fn mss(mtu: u32, headers: u32, min: u16) -> u16 {
    // The largest packet is 65,535 bytes, whatever the interface claims.
    let payload = mtu.min(0xffff).saturating_sub(headers);
    u16::try_from(payload).unwrap_or(u16::MAX).max(min)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULTS: Sysctls = Sysctls {
        timestamps: true,
        sack: true,
        window_scaling: true,
        ecn: true,
        rmem: (131_072, 6_291_456),
        rmem_max: 212_992,
    };

    #[test]
    fn the_defaults_give_what_linux_sends() {
        let offer = KernelOffer::new(&DEFAULTS, 1500);
        let all = OFFER_TIMESTAMPS | OFFER_SACK | OFFER_WINDOW_SCALE | OFFER_ECN;
        assert_eq!(offer.flags, all);
        assert_eq!(offer.window_scale, 7);
        assert_eq!((offer.mss_v4, offer.mss_v6), (1460, 1440));
        assert_eq!(offer.window(1460), 65_160);
        assert_eq!(offer.window(1440), 64_260);
    }

    #[test]
    fn every_setting_counts() {
        let off = Sysctls {
            timestamps: false,
            sack: false,
            window_scaling: false,
            ecn: false,
            ..DEFAULTS
        };
        let offer = KernelOffer::new(&off, 1500);
        assert_eq!((offer.flags, offer.window_scale), (0, 0));
        assert_eq!(offer.window(1460), 64_240, "44 segments of 1460 bytes");
        let large = Sysctls {
            rmem: (1 << 20, 1 << 25),
            ..DEFAULTS
        };
        let offer = KernelOffer::new(&large, 1500);
        assert_eq!((offer.window_scale, offer.window(1460)), (10, 65_535));
        let by_rmem_max = Sysctls {
            rmem_max: 1 << 40,
            ..DEFAULTS
        };
        assert_eq!(KernelOffer::new(&by_rmem_max, 1500).window_scale, 14);
    }

    #[test]
    fn extreme_mtus_stay_in_range() {
        let offer = KernelOffer::new(&DEFAULTS, 65_536);
        assert_eq!((offer.mss_v4, offer.mss_v6), (65_495, 65_475));
        assert_eq!(offer.window(65_495), 65_483);
        let offer = KernelOffer::new(&DEFAULTS, 68);
        assert_eq!((offer.mss_v4, offer.mss_v6), (536, 1220));
        let tiny = Sysctls {
            rmem: (1000, 1000),
            rmem_max: 0,
            ..DEFAULTS
        };
        let offer = KernelOffer::new(&tiny, 1500);
        assert_eq!((offer.window(1460), offer.window_scale), (500, 0));
    }

    #[test]
    fn reads_a_tree_of_settings() {
        let dir = tempfile::tempdir().unwrap();
        let set = |name: &str, value: &str| {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, value).unwrap();
        };
        for name in ["timestamps", "sack", "window_scaling", "syncookies"] {
            set(&format!("ipv4/tcp_{name}"), "1\n");
        }
        set("ipv4/tcp_ecn", "2\n");
        set("ipv4/tcp_rmem", "4096\t131072\t6291456\n");
        assert_eq!(Sysctls::read_from(dir.path()).unwrap(), DEFAULTS);
        set("core/rmem_max", "1000000\n");
        assert_eq!(Sysctls::read_from(dir.path()).unwrap().rmem_max, 1_000_000);
        set("ipv4/tcp_syncookies", "0\n");
        let error = Sysctls::read_from(dir.path()).unwrap_err().to_string();
        assert!(
            error.contains("tcp_syncookies is 0, allowed are 1 and 2"),
            "{error}"
        );
        set("ipv4/tcp_syncookies", "2\n");
        set("ipv4/tcp_sack", "maybe\n");
        let error = Sysctls::read_from(dir.path()).unwrap_err();
        assert!(
            format!("{error:#}").contains("net.ipv4.tcp_sack"),
            "{error:#}"
        );
    }
}
