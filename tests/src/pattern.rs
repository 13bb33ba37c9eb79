//! Bytes that tell where a transfer went wrong.
use std::{
    io::{self, Read as _, Write as _},
    net::{Shutdown, TcpStream},
    thread,
    time::Instant,
};

/// Bytes in a block of a [`Pattern`].
pub const BLOCK: usize = 64 << 10;

/// Bytes of a kind, of which no two blocks are alike: each is numbered.
#[derive(Clone, Debug)]
pub struct Pattern {
    block: Vec<u8>,
}

/// Sends so many blocks each way at once over one connection, and expects all of them.
///
/// # Panics
/// When a byte is missing, wrong or too many.
pub fn both_ways(client: &TcpStream, server: &TcpStream, blocks: u64) {
    const FROM_CLIENT: u8 = 1;
    const FROM_SERVER: u8 = 2;
    let start = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| Pattern::new(FROM_CLIENT).write(client, blocks).unwrap());
        scope.spawn(|| Pattern::new(FROM_SERVER).write(server, blocks).unwrap());
        let to_client = scope.spawn(|| Pattern::new(FROM_SERVER).expect(client));
        assert_eq!(Pattern::new(FROM_CLIENT).expect(server), blocks);
        assert_eq!(to_client.join().unwrap(), blocks);
    });
    let bytes = blocks * BLOCK as u64;
    println!("{bytes} bytes each way in {:?}", start.elapsed());
}

impl Pattern {
    /// Patterns of different kinds differ in every byte but the number.
    #[must_use]
    pub fn new(kind: u8) -> Self {
        let bytes = (0..BLOCK as u64).map(|at| (at.wrapping_mul(0x9e37_79b9) >> 13) as u8 ^ kind);
        Self {
            block: bytes.collect(),
        }
    }

    /// One block.
    pub fn numbered(&mut self, number: u64) -> &[u8] {
        self.block[..8].copy_from_slice(&number.to_be_bytes());
        &self.block
    }

    /// Sends so many blocks, then FIN.
    ///
    /// # Errors
    /// Those of the stream.
    pub fn write(mut self, mut stream: &TcpStream, blocks: u64) -> io::Result<()> {
        (0..blocks).try_for_each(|number| stream.write_all(self.numbered(number)))?;
        stream.shutdown(Shutdown::Write)
    }

    /// Reads to the end and returns how many blocks came.
    ///
    /// # Panics
    /// At the first block that differs.
    #[must_use]
    pub fn expect(mut self, mut stream: &TcpStream) -> u64 {
        let mut received = vec![0; BLOCK];
        let mut number = 0;
        while stream.peek(&mut [0]).expect("no error before the end") > 0 {
            stream.read_exact(&mut received).expect("a whole block");
            assert!(received == self.numbered(number), "block {number} differs");
            number += 1;
        }
        number
    }
}
