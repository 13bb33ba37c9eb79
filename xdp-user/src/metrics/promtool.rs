//! What Prometheus's own checker says, for the tests here and the live ones.

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

/// Fails unless `promtool`, of the Debian package prometheus, has nothing to say about `metrics`.
pub(crate) fn check(metrics: &str) {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool, of the Debian package prometheus, is installed");
    let mut stdin = promtool.stdin.take().unwrap();
    stdin.write_all(metrics.as_bytes()).unwrap();
    drop(stdin);
    let output = promtool.wait_with_output().unwrap();
    let silent = output.stdout.is_empty() && output.stderr.is_empty();
    assert!(output.status.success() && silent, "{output:?}");
}
