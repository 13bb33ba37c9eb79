//! Every byte arrives, over IPv4 and IPv6, and nothing piles up in levee.

use std::{
    fs, io,
    io::{Read as _, Write as _},
    net::TcpStream,
    thread,
    time::Duration,
};

use levee_tests::{
    pattern::{BLOCK, both_ways},
    proxy_lab::{BACKEND, PROXY, with_port},
    sockets::{accept, connect, listen, read_all},
};

use crate::common::{BACKEND_PORT, PORT, Stage, service};

const BLOCKS: u64 = 100_000_000_u64.div_ceil(BLOCK as u64);

fn dual_stack() -> Stage {
    let pairs = with_port(PROXY, PORT)
        .into_iter()
        .zip(with_port(BACKEND, BACKEND_PORT));
    let services = pairs.map(|(address, backend)| service(address, "", &[backend]));
    Stage::new(&services.collect::<String>())
}

#[test]
fn a_hundred_megabytes_each_way() {
    let stage = dual_stack();
    let addresses = with_port(PROXY, PORT).into_iter();
    for (address, backend) in addresses.zip(with_port(BACKEND, BACKEND_PORT)) {
        let listener = listen(&stage.lab.backend, backend);
        let client = connect(&stage.lab.client, address);
        both_ways(&client, &accept(&listener), BLOCKS);
    }
    for direction in ["in", "out"] {
        let bytes = stage.metric("levee_proxy_bytes_total", &[("direction", direction)]);
        assert_eq!(bytes, 2 * BLOCKS * BLOCK as u64, "{direction}");
    }
    stage.assert_nothing_left();
    assert_eq!(stage.closed("finished"), 2);
}

/// Sizes around those at which a proxy may change how it moves bytes.
#[test]
fn transfers_of_every_size() {
    let stage = Stage::simple("");
    let listener = stage.listen();
    for size in [
        1, 4095, 4096, 16_384, 32_767, 32_768, 65_536, 65_537, 262_144, 1_048_577,
    ] {
        let (client, server) = stage.pair(&listener);
        let sent: Vec<u8> = (0..size).map(|at: u32| (at % 251) as u8).collect();
        thread::scope(|scope| {
            for end in [&client, &server] {
                let sent = &sent;
                scope.spawn(move || {
                    let mut end = end;
                    end.write_all(sent).unwrap();
                    end.shutdown(std::net::Shutdown::Write).unwrap();
                });
            }
            for end in [&client, &server] {
                let sent = &sent;
                scope.spawn(move || assert!(read_all(end) == *sent, "{size} bytes differ"));
            }
        });
    }
    stage.assert_nothing_left();
}

fn resident_kib(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.unwrap().split_whitespace().next().unwrap();
    kib.parse().unwrap()
}

/// Writes until nothing more is taken for a while; returns how many bytes were.
fn fill(mut stream: &TcpStream) -> usize {
    let block = vec![0x5a; BLOCK];
    stream
        .set_write_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    let mut written = 0;
    loop {
        match stream.write(&block) {
            Ok(bytes) => written += bytes,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return written,
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn slow_readers_do_not_grow_memory() {
    const READERS: usize = 20;
    /// A pipe or a buffer, for each.
    const HELD_MAX: u64 = READERS as u64 * (1 << 20);
    let stage = Stage::simple("");
    let listener = stage.listen();
    let pairs: Vec<_> = (0..READERS).map(|_| stage.pair(&listener)).collect();
    let before = resident_kib(stage.levee.id());
    let written: Vec<usize> = thread::scope(|scope| {
        let fill = |(_, server): &(TcpStream, TcpStream)| fill(server);
        let threads: Vec<_> = pairs
            .iter()
            .map(|pair| scope.spawn(move || fill(pair)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    let grown = resident_kib(stage.levee.id()).saturating_sub(before);
    let buffered = stage.metric("levee_proxy_buffered_bytes", &[]);
    println!("{READERS} readers that do not read: levee grew by {grown} KiB, buffers {buffered}");
    assert!(grown * 1024 < HELD_MAX, "levee grew by {grown} KiB");
    assert!(buffered < HELD_MAX, "{buffered} bytes in buffers");
    for ((mut client, server), written) in pairs.into_iter().zip(written) {
        drop(server);
        let mut bytes = Vec::new();
        client.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes.len(), written);
        assert!(bytes.iter().all(|&byte| byte == 0x5a));
    }
    stage.assert_nothing_left();
}
