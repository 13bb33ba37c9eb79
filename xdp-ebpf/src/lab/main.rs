//! The lab's own programs: traffic floors, the flood generator, the switch between the lab's
//! namespaces and the VLAN shim. None of them is part of the product.
#![no_std]
#![no_main]

#[expect(
    unreachable_pub,
    dead_code,
    reason = "the lab library compiles this file too"
)]
mod abi;
mod flood;
mod floor;
mod frame;
mod restore;
mod switch;
mod vlan;

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
