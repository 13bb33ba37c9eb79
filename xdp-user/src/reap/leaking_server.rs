//! A server for tests that leaks its connections; also for those of other targets, which include
//! this file.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
};

/// Echoes what it gets, and never closes a connection that its client has closed.
const PROGRAM: &str = "
import selectors, socket, sys
ready = selectors.DefaultSelector()
for address in sys.argv[1:]:
    host, port = address.split(':')
    listener = socket.create_server((host, int(port)), backlog=4096)
    ready.register(listener, selectors.EVENT_READ, True)
print('listening', flush=True)
kept = []
while True:
    for key, _ in ready.select():
        if key.data:
            connection, _ = key.fileobj.accept()
            kept.append(connection)
            ready.register(connection, selectors.EVENT_READ, False)
            continue
        try:
            data = key.fileobj.recv(100)
        except OSError:
            data = b''
        if data:
            key.fileobj.sendall(data)
        else:
            ready.unregister(key.fileobj)
";

/// The server. Killed when dropped.
pub(crate) struct LeakingServer(Child);

impl LeakingServer {
    /// Listens at these IPv4 addresses, in the calling thread's network namespace.
    pub(crate) fn start(addresses: &[&str]) -> Self {
        let mut child = Command::new("python3")
            .args(["-c", PROGRAM])
            .args(addresses)
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 is installed");
        let mut line = String::new();
        let stdout = child.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        assert_eq!(line, "listening\n");
        Self(child)
    }
}

impl Drop for LeakingServer {
    fn drop(&mut self) {
        // It may have ended already; then there is nothing to do.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
