//! Bytes arrive as they were sent, and so do FIN and RST.

use std::io::{Read as _, Write as _};

use super::support::*;
use crate::engine::reason::CloseReason;

#[test]
fn an_echo_comes_back() {
    let lab = Lab::new(options(&[echo_server()]));
    let mut client = lab.connect();
    client.write_all(b"hello").unwrap();
    let mut answer = [0; 5];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"hello");
    fin(&client);
    assert_eq!(read_all(&mut client), b"");
    lab.ends(CloseReason::Finished, 1);
    let stats = &lab.service().stats;
    assert_eq!([stats.bytes[0].get(), stats.bytes[1].get()], [5, 5]);
    assert_eq!(stats.accepted.get(), 1);
}

#[test]
fn after_the_clients_fin_the_backend_goes_on() {
    let (backend, served) = backend(|mut stream| {
        let request = read_all(&mut stream);
        stream.write_all(&pattern(2, 300_000)).unwrap();
        request
    });
    let lab = Lab::new(options(&[backend]));
    let mut client = lab.connect();
    client.write_all(&pattern(1, 300_000)).unwrap();
    fin(&client);
    assert!(read_all(&mut client) == pattern(2, 300_000));
    assert!(served.join().unwrap() == pattern(1, 300_000));
    lab.ends(CloseReason::Finished, 1);
}

#[test]
fn after_the_backends_fin_the_client_goes_on() {
    let (backend, served) = backend(|mut stream| {
        stream.write_all(&pattern(2, 300_000)).unwrap();
        fin(&stream);
        read_all(&mut stream)
    });
    let lab = Lab::new(options(&[backend]));
    let mut client = lab.connect();
    assert!(read_all(&mut client) == pattern(2, 300_000));
    client.write_all(&pattern(1, 300_000)).unwrap();
    fin(&client);
    assert!(served.join().unwrap() == pattern(1, 300_000));
    lab.ends(CloseReason::Finished, 1);
}

#[test]
fn a_backend_that_refuses_is_a_rst_for_the_client() {
    let lab = Lab::new(options(&[address()]));
    let mut client = lab.connect();
    assert_eq!(read_to_rst(&mut client), b"");
    lab.ends(CloseReason::ConnectRefused, 1);
}

#[test]
fn a_reset_is_passed_on() {
    let (backend, served) = backend(|mut stream| read_to_rst(&mut stream));
    let lab = Lab::new(options(&[backend]));
    rst(lab.connect());
    assert_eq!(served.join().unwrap(), b"");
    lab.ends(CloseReason::ClientReset, 1);
}
