//! The kernel's sockets, looked up by the tuple of a segment that came in.

use aya_ebpf::{
    EbpfContext,
    bindings::{BPF_F_CURRENT_NETNS, bpf_sock, bpf_sock_tuple},
    helpers::generated::{bpf_sk_release, bpf_skc_lookup_tcp},
};
use xdp_common::{cookie::Family, tuple::Tuple};

/// State of a socket (`enum` in the kernel's `net/tcp_states.h`, by RFC 9293 names).
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct State(u32);

impl State {
    const FIN_WAIT_1: Self = Self(4);
    const FIN_WAIT_2: Self = Self(5);
    const TIME_WAIT: Self = Self(6);
    const CLOSE: Self = Self(7);
    const LISTEN: Self = Self(10);
    const CLOSING: Self = Self(11);

    /// Whether the socket stands for this very connection, in whatever state, and not for the
    /// port.
    #[inline(always)]
    pub(crate) fn is_connection(self) -> bool {
        self != Self::LISTEN && self != Self::CLOSE
    }

    /// Whether the server has closed first, so that the client's FIN takes the socket to
    /// TIME_WAIT (RFC 9293 3.6). Linux calls it that already in FIN_WAIT_2, once no process holds
    /// the socket any more.
    #[inline(always)]
    pub(crate) fn ends_in_time_wait(self) -> bool {
        matches!(
            self,
            Self::FIN_WAIT_1 | Self::FIN_WAIT_2 | Self::CLOSING | Self::TIME_WAIT
        )
    }

    #[inline(always)]
    pub(crate) fn is_listener(self) -> bool {
        self == Self::LISTEN
    }
}

/// A socket that is held until dropped.
pub(crate) struct Socket(*mut bpf_sock);

impl Socket {
    /// The socket that the kernel would deliver the segment to: its connection's, else a listener.
    #[inline(always)]
    pub(crate) fn lookup(ctx: &impl EbpfContext, family: Family, tuple: &Tuple) -> Option<Self> {
        let ports = u32::from(tuple.src_port.to_be()) | u32::from(tuple.dst_port.to_be()) << 16;
        let socket = match family {
            Family::V4 => {
                let key = [
                    tuple.src.v4_word().to_le(),
                    tuple.dst.v4_word().to_le(),
                    ports,
                ];
                lookup(ctx, key)
            }
            Family::V6 => {
                let [a, b] = halves(tuple.src.hi);
                let [c, d] = halves(tuple.src.lo);
                let [e, f] = halves(tuple.dst.hi);
                let [g, h] = halves(tuple.dst.lo);
                lookup(ctx, [a, b, c, d, e, f, g, h, ports])
            }
        };
        if socket.is_null() {
            None
        } else {
            Some(Self(socket))
        }
    }

    #[inline(always)]
    pub(crate) fn state(&self) -> State {
        // SAFETY: the pointer is not null and held.
        State(unsafe { (*self.0).state })
    }

    #[inline(always)]
    pub(crate) fn as_ptr(&self) -> *mut bpf_sock {
        self.0
    }
}

impl Drop for Socket {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: the pointer came from a lookup and is released once.
        unsafe { bpf_sk_release(self.0.cast()) };
    }
}

/// Looks up by a `struct bpf_sock_tuple`: addresses, then ports, in wire order.
#[inline(always)]
fn lookup<const WORDS: usize>(ctx: &impl EbpfContext, mut key: [u32; WORDS]) -> *mut bpf_sock {
    // SAFETY: `key` is a live buffer of the length given.
    unsafe {
        bpf_skc_lookup_tcp(
            ctx.as_ptr(),
            key.as_mut_ptr().cast::<bpf_sock_tuple>(),
            WORDS as u32 * 4,
            i64::from(BPF_F_CURRENT_NETNS) as u64,
            0,
        )
    }
}

/// Eight wire bytes as two words.
#[inline(always)]
const fn halves(word: u64) -> [u32; 2] {
    let word = word.to_le();
    [word as u32, (word >> 32) as u32]
}
