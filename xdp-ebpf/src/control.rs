//! What the controller sets while the data path runs.

use aya_ebpf::{macros::map, maps::Array};
use xdp_common::abi::Control;

#[map]
static CONTROL: Array<Control> = Array::with_max_entries(1, 0);

/// The controller's current word. An array's first element always exists, so `None` cannot happen;
/// the verifier wants it asked for all the same.
#[inline(always)]
pub(crate) fn get() -> Option<&'static Control> {
    CONTROL.get(0)
}
