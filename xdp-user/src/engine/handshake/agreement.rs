//! What client and target have agreed on, having never met: how their numbers are translated.

use super::{
    client::Client,
    effects::{Service, Translation},
    received::Received,
};

/// Largest window scale (RFC 7323 2.3: a larger one is taken as this).
const WINDOW_SCALE_MAX: u8 = 14;

impl Translation {
    /// For a client of the service and the target that sends this SYN-ACK.
    pub(super) fn between(client: &Client, service: &Service, syn_ack: &Received) -> Self {
        let options = &syn_ack.options;
        let clocks = client.timestamps.zip(options.timestamps);
        let (offered_scale, target_scale, client_shift) =
            match (client.offer.window_scale, options.window_scale) {
                (Some(_), Some(scale)) => (service.window_scale, scale.min(WINDOW_SCALE_MAX), 0),
                // The target takes the client's windows as they are, so they have to be bytes.
                (Some(scale), None) => (service.window_scale, 0, scale),
                // RFC 7323 2.2: a target may only scale if the SYN did.
                (None, _) => (0, 0, 0),
            };
        Self {
            seq_delta: client.cookie.wrapping_sub(syn_ack.seq),
            // The target's clock goes on from the last time of levee's that the client has seen,
            // so that it never runs backwards for the client (RFC 7323 5.3), and the client's echo
            // of that time is exactly what the target has sent.
            ts_delta: clocks.map_or(0, |(client, target)| client.echo.wrapping_sub(target.value)),
            offered_scale,
            target_scale,
            client_shift,
            timestamps: clocks.is_some(),
        }
    }
}

/// Whether the target lacks an option that the client was offered.
pub(super) fn is_less_than_offered(client: &Client, syn_ack: &Received) -> bool {
    let options = &syn_ack.options;
    client.timestamps.is_some() && options.timestamps.is_none()
        || client.offer.window_scale.is_some() && options.window_scale.is_none()
        || client.offer.sack && !options.sack
}
