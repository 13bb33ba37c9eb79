//! The system calls of AF_XDP that no library wraps.

use std::{
    io, mem,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
    ptr,
};

use nix::{
    errno::Errno,
    libc::{self, c_int, socklen_t},
};

/// The `ethtool_channels` of linux/ethtool.h: how many queues a device has now, and at most.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Channels {
    cmd: u32,
    max_rx: u32,
    max_tx: u32,
    max_other: u32,
    max_combined: u32,
    rx_count: u32,
    tx_count: u32,
    other_count: u32,
    combined_count: u32,
}

/// `ETHTOOL_GCHANNELS` of linux/ethtool.h.
const GET_CHANNELS: u32 = 0x3c;

mod ioctl {
    nix::ioctl_readwrite_bad!(siocethtool, nix::libc::SIOCETHTOOL, nix::libc::ifreq);
}

/// A new AF_XDP socket.
pub(super) fn socket() -> io::Result<OwnedFd> {
    new_socket(libc::AF_XDP, libc::SOCK_RAW)
}

fn new_socket(family: c_int, kind: c_int) -> io::Result<OwnedFd> {
    // SAFETY: takes no pointers.
    let fd = Errno::result(unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: the descriptor is new, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Registers user memory for a socket's frames.
pub(super) fn register_umem(socket: BorrowedFd<'_>, umem: &libc::xdp_umem_reg) -> io::Result<()> {
    set(socket, libc::XDP_UMEM_REG, umem)
}

/// Makes one of a socket's rings: `option` is `XDP_RX_RING` or one of its like.
pub(super) fn make_ring(socket: BorrowedFd<'_>, option: c_int, entries: u32) -> io::Result<()> {
    set(socket, option, &entries)
}

/// Where in their mappings the rings' parts are.
pub(super) fn ring_offsets(socket: BorrowedFd<'_>) -> io::Result<libc::xdp_mmap_offsets> {
    get(socket, libc::XDP_MMAP_OFFSETS)
}

/// What the kernel has counted for a socket.
pub(super) fn statistics(socket: BorrowedFd<'_>) -> io::Result<libc::xdp_statistics> {
    get(socket, libc::XDP_STATISTICS)
}

/// Binds a socket to a queue of an interface.
pub(super) fn bind(socket: BorrowedFd<'_>, ifindex: u32, queue: u32, flags: u16) -> io::Result<()> {
    let address = libc::sockaddr_xdp {
        sxdp_family: libc::AF_XDP as u16,
        sxdp_flags: flags,
        sxdp_ifindex: ifindex,
        sxdp_queue_id: queue,
        sxdp_shared_umem_fd: 0,
    };
    // SAFETY: the kernel reads the address, as long as it is.
    let answer = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            ptr::from_ref(&address).cast(),
            size_of_val(&address) as socklen_t,
        )
    };
    Errno::result(answer)?;
    Ok(())
}

/// Has the kernel send what is in a socket's ring, or a part of it.
pub(super) fn kick(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: no data and no address are passed.
    let answer = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            ptr::null(),
            0,
            libc::MSG_DONTWAIT,
            ptr::null(),
            0,
        )
    };
    Errno::result(answer).map(|_| ())
}

/// Receive queues of the interface `name` now; 1 for a device that has no such notion.
pub(super) fn receive_queues(name: &str) -> io::Result<u32> {
    let control = new_socket(libc::AF_INET, libc::SOCK_DGRAM)?;
    let mut channels = Channels {
        cmd: GET_CHANNELS,
        ..Channels::default()
    };
    // SAFETY: a C structure of numbers, for which zeroes are valid.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = ptr::from_mut(&mut channels).cast();
    // SAFETY: the kernel reads the request, and writes to `channels` as much as that has room for;
    // both live until the call returns.
    match unsafe { ioctl::siocethtool(control.as_raw_fd(), &raw mut request) } {
        Ok(_) => Ok((channels.rx_count + channels.combined_count).max(1)),
        Err(Errno::EOPNOTSUPP) => Ok(1),
        Err(error) => Err(error.into()),
    }
}

/// `T` is a structure of the kernel's for the option, or a beginning of it.
fn set<T: Copy>(socket: BorrowedFd<'_>, option: c_int, value: &T) -> io::Result<()> {
    // SAFETY: the kernel reads at most as many bytes as the value has.
    let answer = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_XDP,
            option,
            ptr::from_ref(value).cast(),
            size_of::<T>() as socklen_t,
        )
    };
    Errno::result(answer)?;
    Ok(())
}

/// `T` is a structure of numbers, for which all bytes are valid.
fn get<T: Copy>(socket: BorrowedFd<'_>, option: c_int) -> io::Result<T> {
    // SAFETY: see above.
    let mut value: T = unsafe { mem::zeroed() };
    let mut len = size_of::<T>() as socklen_t;
    // SAFETY: the kernel writes at most `len` bytes, which is what the value has.
    let answer = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_XDP,
            option,
            ptr::from_mut(&mut value).cast(),
            &raw mut len,
        )
    };
    Errno::result(answer)?;
    if len as usize != size_of::<T>() {
        return Err(io::Error::other(format!(
            "the kernel answers option {option} with {len} bytes, expected: {}",
            size_of::<T>()
        )));
    }
    Ok(value)
}
