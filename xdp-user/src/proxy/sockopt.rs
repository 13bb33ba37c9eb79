//! What the kernel tells and takes about sockets and processes beyond what libraries wrap.

use std::os::fd::{AsRawFd as _, BorrowedFd};

use nix::libc;

/// States after the ACK of a FIN that was sent, as include/net/tcp_states.h numbers them:
/// FIN_WAIT_2, TIME_WAIT and CLOSED.
const FIN_ACKED: [u8; 3] = [5, 6, 7];

/// Whether the peer has acknowledged the FIN that was sent to it.
pub(super) fn is_fin_acked(socket: BorrowedFd<'_>) -> bool {
    // The first byte of struct tcp_info is the state, and the kernel gives as much as is asked for.
    let mut state = 0_u8;
    let mut len: libc::socklen_t = 1;
    // SAFETY: the descriptor is open, and the kernel writes at most `len` bytes to where `state`
    // is, and one number to where `len` is.
    let answer = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut state).cast(),
            &raw mut len,
        )
    };
    answer == 0 && FIN_ACKED.contains(&state)
}

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
