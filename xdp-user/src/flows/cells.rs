//! Reading and writing one flow, word by word.
//!
//! The controller is the only writer of everything but [`Flow::seen`] and [`Flow::hop`], and it
//! writes those only as long as the flow is not open. So plain loads and stores do; what has to be
//! seen in order is [the state](state), stored last and with the word that holds it.

use std::{
    array,
    mem::offset_of,
    sync::atomic::Ordering::{Acquire, Relaxed, Release},
};

use xdp_common::splice::{
    flow::{CLIENT, Flow, STATE_OPEN, STATE_PENDING, TARGET},
    index::SideKey,
};
use zerocopy::transmute;

use super::memory::{Cells, FLOW_WORDS};
use crate::engine::handshake::effects::Translation;

/// The word that holds a flow's state.
const STATE_WORD: usize = offset_of!(Flow, state) / size_of::<u64>();

/// The words that no one writes who is not the controller, as far as the state and no farther.
const IDENTITY_WORDS: usize = STATE_WORD;

/// The flow as it stands now.
pub(super) fn load(cells: &Cells) -> Flow {
    let state_word = cells[STATE_WORD].load(Acquire);
    let mut words: [u64; FLOW_WORDS] = array::from_fn(|word| cells[word].load(Relaxed));
    words[STATE_WORD] = state_word;
    transmute!(words)
}

/// Its state alone.
pub(super) fn state(cells: &Cells) -> u32 {
    let [state, _]: [u32; 2] = transmute!(cells[STATE_WORD].load(Acquire));
    state
}

/// The keys of both its sides.
pub(super) fn keys(cells: &Cells) -> [SideKey; 2] {
    let mut words = [0; FLOW_WORDS];
    for (word, cell) in words.iter_mut().zip(&cells[..IDENTITY_WORDS]) {
        *word = cell.load(Relaxed);
    }
    keys_of(&transmute!(words))
}

/// The keys of a flow's sides, by [`CLIENT`] and [`TARGET`].
pub(super) const fn keys_of(flow: &Flow) -> [SideKey; 2] {
    const { assert!(CLIENT == 0 && TARGET == 1) };
    [
        SideKey::client(flow.client, flow.client_port, flow.service),
        SideKey::target(flow.nat, flow.nat_port, flow.target),
    ]
}

/// Writes a new flow, pending.
pub(super) fn write_pending(cells: &Cells, flow: &Flow) {
    let pending = Flow {
        state: STATE_PENDING,
        ..*flow
    };
    store_state_last(cells, &pending);
}

/// Writes what the target's answer has told, and opens the flow.
pub(super) fn write_open(cells: &Cells, translation: &Translation, clock_s: u32) {
    let mut flow = load(cells);
    flow.seq_delta = translation.seq_delta;
    flow.ts_delta = translation.ts_delta;
    flow.offered_scale = translation.offered_scale;
    flow.target_scale = translation.target_scale;
    flow.client_shift = translation.client_shift;
    flow.timestamps = translation.timestamps.into();
    flow.opened_s = clock_s;
    for seen in &mut flow.seen {
        seen.at_s = clock_s;
    }
    flow.state = STATE_OPEN;
    store_state_last(cells, &flow);
}

/// Changes the state alone. The data path may go on with packets for which it has found the flow
/// already.
pub(super) fn write_state(cells: &Cells, state: u32) {
    let [_, seq_delta]: [u32; 2] = transmute!(cells[STATE_WORD].load(Relaxed));
    cells[STATE_WORD].store(transmute!([state, seq_delta]), Release);
}

fn store_state_last(cells: &Cells, flow: &Flow) {
    let words: [u64; FLOW_WORDS] = transmute!(*flow);
    for (word, (cell, value)) in cells.iter().zip(words).enumerate() {
        if word != STATE_WORD {
            cell.store(value, Relaxed);
        }
    }
    cells[STATE_WORD].store(words[STATE_WORD], Release);
}

const _: () = assert!(offset_of!(Flow, state).is_multiple_of(8));
const _: () = assert!(offset_of!(Flow, seq_delta) == offset_of!(Flow, state) + 4);
