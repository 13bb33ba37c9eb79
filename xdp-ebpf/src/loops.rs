//! The kernel's own loop, for lengths that an attacker chooses: the verifier would follow a plain
//! loop, and all that comes after it, once for every possible number of turns.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_loop;

/// What is to be repeated.
pub(crate) trait Steps {
    /// Steps after which there are certainly no more.
    const MAX: u32;

    /// Makes one step; `false` if there are no more.
    fn step(&mut self) -> bool;
}

/// Makes all steps by `bpf_loop` (Linux 5.17), which has the body verified once.
#[inline(never)]
pub(crate) fn run<S: Steps>(steps: &mut S) {
    let body: unsafe extern "C" fn(u32, *mut S) -> i64 = step::<S>;
    // SAFETY: the callback has the type that the kernel calls, and its context outlives the call.
    // It cannot fail: flags are zero and the count is below the kernel's limit.
    unsafe {
        bpf_loop(S::MAX, body as *mut c_void, (&raw mut *steps).cast(), 0);
    }
}

unsafe extern "C" fn step<S: Steps>(_: u32, steps: *mut S) -> i64 {
    // SAFETY: the context that `run` passes.
    let steps = unsafe { &mut *steps };
    i64::from(!steps.step())
}
