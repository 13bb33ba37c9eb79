//! What the kernel tells and takes about sockets and processes beyond what libraries wrap.

use std::os::fd::{AsRawFd as _, BorrowedFd};

mod ioctl {
    /// linux/sockios.h: bytes in the send queue that were not sent yet. SIOCOUTQ also counts
    /// those that were sent and not acknowledged.
    const SIOCOUTQNSD: u16 = 0x894B;

    nix::ioctl_read_bad!(siocoutqnsd, SIOCOUTQNSD, nix::libc::c_int);
}

/// Bytes in the socket's send queue that the kernel has not sent yet; 0 when it does not tell.
pub(super) fn unsent(socket: BorrowedFd<'_>) -> u32 {
    let mut bytes = 0;
    // SAFETY: the descriptor is open, and the kernel writes one int to where `bytes` is.
    let answer = unsafe { ioctl::siocoutqnsd(socket.as_raw_fd(), &raw mut bytes) };
    answer.map_or(0, |_| u32::try_from(bytes).unwrap_or(0))
}
