//! Keepalive probes (RFC 9293 3.8.4).

use std::{io, time::Duration};

use socket2::{Socket, TcpKeepalive};

use crate::config::Keepalive;

/// The least user timeout, and so the least time until a peer counts as gone, whatever its probes
/// are: it also ends connections whose receiver takes nothing for as long, and whose segments get
/// lost.
const USER_TIMEOUT_MIN: Duration = Duration::from_secs(30);

/// Sets probes on a socket, or switches them off. Sockets that a listener accepts inherit it.
pub(super) fn set(socket: &Socket, keepalive: Option<Keepalive>) -> io::Result<()> {
    let Some(keepalive) = keepalive else {
        socket.set_keepalive(false)?;
        return socket.set_tcp_user_timeout(None);
    };
    let probes = TcpKeepalive::new()
        .with_time(keepalive.idle)
        .with_interval(keepalive.interval)
        .with_retries(keepalive.count);
    socket.set_tcp_keepalive(&probes)?;
    // Otherwise data on its way when the peer dies is retransmitted for a quarter of an hour, and
    // probes rest meanwhile.
    let silence = keepalive.idle + keepalive.interval * keepalive.count;
    socket.set_tcp_user_timeout(Some(silence.max(USER_TIMEOUT_MIN)))
}

#[cfg(test)]
mod tests {
    use socket2::{Domain, Type};

    use super::*;

    #[test]
    fn what_is_set_is_in_force() {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        set(&socket, Some(Keepalive::HEARTBEAT)).unwrap();
        assert!(socket.keepalive().unwrap());
        assert_eq!(
            socket.tcp_keepalive_time().unwrap(),
            Duration::from_secs(30)
        );
        assert_eq!(
            socket.tcp_keepalive_interval().unwrap(),
            Duration::from_secs(5)
        );
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), 3);
        let timeout = socket.tcp_user_timeout().unwrap();
        assert_eq!(timeout, Some(Duration::from_secs(45)));
        set(&socket, None).unwrap();
        assert!(!socket.keepalive().unwrap());
        assert_eq!(socket.tcp_user_timeout().unwrap(), None);
    }
}
