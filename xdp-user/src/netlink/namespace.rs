//! Network namespaces for tests.

use std::{panic::resume_unwind, process::Command, thread};

use nix::sched::{CloneFlags, unshare};

/// Runs a test in a network namespace of its own, which the kernel removes when the thread and what
/// it started have ended. Needs root.
pub(crate) fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let thread = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("root, to make a network namespace");
        tool("ip", "link set lo up");
        test();
    });
    if let Err(panic) = thread.join() {
        resume_unwind(panic);
    }
}

/// Runs a program in the namespace of this thread; its arguments are the words.
pub(crate) fn tool(program: &str, arguments: &str) {
    let output = Command::new(program)
        .args(arguments.split_whitespace())
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {arguments}: {output:?}");
}
