//! Where spliced connections lead to, and the way there.

use aya_ebpf::{
    EbpfContext, bindings::bpf_fib_lookup as FibLookup, helpers::generated::bpf_fib_lookup,
    macros::map, maps::Array, programs::XdpContext,
};
use xdp_common::{
    abi::{Control, SERVICES_MAX},
    cookie::Family,
    splice::flow::{Spliced, TARGETS_MAX, Target},
    tuple::Addr,
};

#[map]
static TARGETS: Array<Target> = Array::with_max_entries(TARGETS_MAX, 0);

#[map]
static SPLICED: Array<Spliced> = Array::with_max_entries(SERVICES_MAX, 0);

/// How long the way to a target is taken as confirmed, seconds.
const CONFIRMED_S_MAX: u32 = 1;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// The address and port that clients know a service by.
#[inline(always)]
pub(crate) fn service(id: u16) -> Option<&'static Spliced> {
    SPLICED.get(u32::from(id))
}

/// The target in a slot, with a way that was asked for at most a second ago: the kernel's routes
/// and neighbours change without the controller. `src` is where the packet comes from.
///
/// The controller and other CPUs change a way as a whole; a packet that takes a mixture of two is
/// lost like any other that leaves while it changes.
#[inline(always)]
pub(crate) fn get(
    ctx: &XdpContext,
    control: &Control,
    family: Family,
    id: u16,
    src: Addr,
) -> Option<&'static Target> {
    let at = TARGETS.get_ptr_mut(u32::from(id))?;
    // SAFETY: of a live map element.
    let confirmed_s = unsafe { &raw mut (*at).hop.confirmed_s };
    // SAFETY: an aligned word of it.
    let then_s = unsafe { confirmed_s.read_volatile() };
    if control.clock_s.wrapping_sub(then_s) > CONFIRMED_S_MAX {
        // What is not found now is asked for again in a second, and the old way is used until then.
        // SAFETY: as above.
        unsafe { confirmed_s.write_volatile(control.clock_s) };
        refresh(ctx, family, &src, at);
    }
    // SAFETY: a live map element.
    Some(unsafe { &*at })
}

/// Asks the kernel for the way to a target. It has none while a neighbour is not resolved, which
/// the controller sees to. Not inlined, to keep what it needs out of the others' stack.
#[inline(never)]
fn refresh(ctx: &XdpContext, family: Family, src: &Addr, target: *mut Target) {
    // SAFETY: a C structure without pointers.
    let mut asked: FibLookup = unsafe { core::mem::zeroed() };
    asked.ifindex = ctx.ingress_ifindex() as u32;
    // SAFETY: of a live map element.
    let dst = unsafe { (&raw const (*target).addr).read() };
    match family {
        Family::V4 => {
            asked.family = AF_INET;
            asked.__bindgen_anon_3.ipv4_src = src.v4_word().to_le();
            asked.__bindgen_anon_4.ipv4_dst = dst.v4_word().to_le();
        }
        Family::V6 => {
            asked.family = AF_INET6;
            asked.__bindgen_anon_3.ipv6_src = words(*src);
            asked.__bindgen_anon_4.ipv6_dst = words(dst);
        }
    }
    let len = size_of::<FibLookup>() as i32;
    // SAFETY: the context is the kernel's own, and `asked` a live buffer of that length.
    let answer = unsafe { bpf_fib_lookup(ctx.as_ptr(), &raw mut asked, len, 0) };
    if answer != 0 {
        return;
    }
    // SAFETY: of a live map element.
    unsafe {
        let hop = &raw mut (*target).hop;
        (&raw mut (*hop).dst_mac).write(asked.dmac);
        (&raw mut (*hop).src_mac).write(asked.smac);
        // For a VLAN the kernel names the VLAN device; the interface below and the tags are known
        // to the controller.
        if (&raw const (*hop).tags[0]).read() == 0 {
            (&raw mut (*hop).ifindex).write(asked.ifindex);
        }
    }
}

/// An address as the kernel has it: words of four wire bytes.
#[inline(always)]
const fn words(addr: Addr) -> [u32; 4] {
    let (hi, lo) = (addr.hi.to_le(), addr.lo.to_le());
    [hi as u32, (hi >> 32) as u32, lo as u32, (lo >> 32) as u32]
}
