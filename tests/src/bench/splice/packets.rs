//! Small packets of one open connection, as many as get through.
//!
//! They come as a NIC's driver hands them over, as frames that belong to no socket: veth turns what a
//! socket sends into such a frame by copying it, before an XDP program sees it. And no two of them
//! can be joined (GRO), as with packets of many connections.

use std::{
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow, ensure};
use aya::programs::XdpMode;

use super::super::restored::{NAME, Restored, Spread};
use crate::{
    abi::tcp_flag::{ACK, PSH},
    flood::{send_frames, settle},
    link::{ifindex, transmitted_here},
    netns::Netns,
    object::Object,
    packet::Packet,
    proxy_lab::{CLIENT_MAC, INSIDE, INTERFACE, PROXY_MAC, ProxyLab},
    sockets::try_connect,
};

const PAYLOAD: [u8; 32] = [0x5a; 32];

/// Before what is counted.
const WARM_UP: Duration = Duration::from_millis(300);

/// Packets per second that the backend's side got, out of as many as the client's side could offer.
pub(super) fn forwarded(lab: &mut ProxyLab, target: SocketAddr, length: Duration) -> Result<f64> {
    let connection = try_connect(&lab.client, target)?;
    let mut packet = Packet::new(connection.local_addr()?, target, ACK | PSH);
    packet.payload = PAYLOAD.to_vec();
    let mut frame = packet.bytes();
    frame[..6].copy_from_slice(&PROXY_MAC);
    frame[6..12].copy_from_slice(&CLIENT_MAC);

    // What becomes of them there is not asked.
    lab.set_backend_drops(true)?;
    let out = ifindex(&lab.client, INTERFACE)?;
    let mut out = Object::load(&[("OUT_IFINDEX", out)])?;
    let mut source = Restored::new(&frame, Spread::default(), out.xdp("lab_out")?.fd()?)?;
    // Attached anywhere, it keeps its place in the kernel's dispatcher.
    source
        .object
        .attach_xdp(&lab.client, "lo", NAME, XdpMode::Skb)?;
    let end = Instant::now() + WARM_UP + length;
    let client = lab.client.clone();
    let offering = thread::spawn(move || offer(&client, source, &frame, end));
    thread::sleep(WARM_UP);
    let (before, start) = (got(lab)?, Instant::now());
    thread::sleep(length.saturating_sub(WARM_UP));
    let rate = (got(lab)? - before) as f64 / start.elapsed().as_secs_f64();
    offering
        .join()
        .map_err(|_| anyhow!("the load panicked"))??;
    lab.set_backend_drops(false)?;
    ensure!(rate > 0.0, "no packet got through");
    Ok(rate)
}

fn offer(client: &Netns, mut source: Restored, frame: &[u8], end: Instant) -> Result<()> {
    settle(client)?;
    while Instant::now() < end {
        send_frames(source.program()?, frame)?;
    }
    Ok(())
}

/// Frames that have left for the backend and were taken.
fn got(lab: &ProxyLab) -> Result<u64> {
    lab.proxy.run(|| Ok(transmitted_here(INSIDE)?.sent))
}
