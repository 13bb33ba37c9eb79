//! The table of spliced connections: kernel memory per connection, and what its one thread needs to
//! take it over, to open and close flows, and to sweep it. On the maps that the data path has, which
//! no program reads meanwhile.

use std::{
    fs,
    hint::black_box,
    os::fd::{AsFd as _, AsRawFd as _},
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};
use aya::maps::MapData;
use aya_obj::generated::{BPF_F_MMAPABLE, bpf_map_type};
use levee::{
    engine::{
        Tick,
        handshake::effects::{FlowId, Flows as _, Translation},
        reaper::{self, Timeouts},
    },
    flows::{REST_MS, Table, memory::Mapped},
};
use serde::Serialize;
use xdp_common::{
    splice::{
        flow::{Flow, MARK_ACKED, TARGETS_MAX},
        index::{Bucket, buckets},
    },
    tuple::Addr,
};

use super::{handshakes, host::Host, median::median};
use crate::interrupt::Interrupt;

/// What the user may choose.
#[derive(Clone, Copy, Debug)]
pub struct FlowsOptions {
    /// Connections in the table.
    pub connections: u32,
    /// How often everything is measured; medians are reported.
    pub rounds: u32,
    /// Print JSON on standard output instead of the table.
    pub json: bool,
}

/// One result.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// What was measured.
    pub name: &'static str,
    /// The median.
    pub value: f64,
    /// Of the value.
    pub unit: &'static str,
}

const SEED: u64 = 0x5bd1_e995_9e37_79b9;

const TIMEOUTS: Timeouts = Timeouts {
    idle_s: 3600,
    close_wait_s: 240,
    fin_wait_s: 240,
    last_ack_s: 60,
    time_wait_s: 60,
};

/// Measures and reports.
///
/// # Errors
/// Fails without root.
pub fn run(options: FlowsOptions, interrupt: &Interrupt) -> Result<()> {
    let mut samples = Vec::new();
    for round in 1..=options.rounds {
        eprintln!("round {round} of {}", options.rounds);
        samples.push(measure(options.connections)?);
        interrupt.check()?;
    }
    let rows: Vec<_> = (0..samples[0].len())
        .map(|position| {
            let mut values: Vec<_> = samples.iter().map(|rows| rows[position].value).collect();
            let value = median(&mut values);
            Row {
                value,
                ..samples[0][position].clone()
            }
        })
        .collect();
    if options.json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
        return Ok(());
    }
    println!("{}", Host::ask()?);
    println!(
        "{} connections, medians of {} rounds\n",
        options.connections, options.rounds
    );
    for Row { name, value, unit } in rows {
        println!("{name:<34} {value:>10.2} {unit}");
    }
    Ok(())
}

fn measure(connections: u32) -> Result<Vec<Row>> {
    let (flow_count, bucket_count) = (connections + 1, buckets(connections));
    let flows = array::<Flow>(flow_count)?;
    let index = array::<Bucket>(bucket_count)?;
    let memory = memlock(&flows)? + memlock(&index)?;
    let map = || {
        Mapped::new(flows.fd(), flow_count, index.fd(), bucket_count)
            .context("cannot map the table")
    };
    let count = f64::from(connections);

    let (mut table, adopt_empty_ms) = timed_ms(|| Ok(Table::adopt(map()?, SEED).0))?;
    let mut ids = Vec::with_capacity(connections as usize);
    let mut refused = 0_u32;
    let ((), fill_ms) = timed_ms(|| {
        for number in 0..connections {
            match table.open(&flow(number)) {
                Ok(id) => ids.push(id),
                Err(_) => refused += 1,
            }
        }
        Ok(())
    })?;
    let ((), establish_ms) = timed_ms(|| {
        for id in &ids {
            table.establish(*id, &TRANSLATION);
        }
        Ok(())
    })?;
    let (over, sweep_ms) = timed_ms(|| Ok(sweep(&table)))?;
    ensure!(
        over == 0,
        "{over} of the flows that were just opened are over"
    );
    drop(table);
    let ((mut table, adoption), adopt_full_ms) = timed_ms(|| Ok(Table::adopt(map()?, SEED)))?;
    ensure!(
        adoption.kept == ids.len() as u32 && adoption.lost == 0,
        "{adoption:?}"
    );
    let ((), close_ms) = timed_ms(|| {
        for id in &ids {
            table.close(*id);
        }
        Ok(())
    })?;
    table.set_time(Tick(REST_MS), 2);
    let churn_ns = churn(&mut table, connections.min(CHURN_MAX))?;
    let each_ns = |ms: f64| ms * 1e6 / count;
    let rows = [
        ("kernel_memory_per_flow", memory / count, "bytes"),
        (
            "refused_for_want_of_room",
            f64::from(refused) / count * 1e6,
            "per million",
        ),
        ("adopt_empty", adopt_empty_ms, "ms"),
        ("adopt_full", adopt_full_ms, "ms"),
        ("open", each_ns(fill_ms), "ns/flow"),
        ("establish", each_ns(establish_ms), "ns/flow"),
        ("close", each_ns(close_ms), "ns/flow"),
        ("open_establish_close_hot", churn_ns, "ns/flow"),
        ("sweep", each_ns(sweep_ms), "ns/flow"),
        (
            "sweep_cpu_at_a_round_per_second",
            sweep_ms / 10.0,
            "% of a CPU",
        ),
        (
            "handshakes_without_io",
            handshakes::measure()?,
            "per second of a CPU",
        ),
    ];
    let rows = rows.into_iter();
    Ok(rows
        .map(|(name, value, unit)| Row { name, value, unit })
        .collect())
}

const TRANSLATION: Translation = Translation {
    seq_delta: 1,
    ts_delta: 2,
    offered_scale: 7,
    target_scale: 7,
    client_shift: 0,
    timestamps: true,
};

/// A table that is mapped like the data path's.
fn array<T>(elements: u32) -> Result<MapData> {
    let (key, value) = (size_of::<u32>() as u32, size_of::<T>() as u32);
    let map_type = bpf_map_type::BPF_MAP_TYPE_ARRAY as u32;
    let map = aya_obj::Map::new_from_params(map_type, key, value, elements, BPF_F_MMAPABLE);
    MapData::create(map, "bench", None).context("cannot make a map")
}

/// Clients as they are: some thousand addresses with many ports each.
fn flow(number: u32) -> Flow {
    let mut flow = Flow {
        client: Addr::v4((0x0a00_0000 + number / 32).to_be_bytes()),
        client_port: (1024 + number % 32 * 97) as u16,
        service: (number % 7) as u16,
        target: (number % 100 % TARGETS_MAX) as u16,
        ..Flow::default()
    };
    flow.nat = flow.client;
    flow.nat_port = flow.client_port;
    for seen in &mut flow.seen {
        seen.marks = MARK_ACKED;
    }
    flow
}

/// Looks at every flow as the splice thread does. Returns how many are over.
fn sweep(table: &Table<Mapped>) -> u32 {
    let mut over = 0;
    table.scan(1..table.end(), |_, flow| {
        over += u32::from(black_box(reaper::judge(flow, 2, &TIMEOUTS)).is_some());
    });
    over
}

/// Flows that are opened and closed one after the other, if the table is large enough: a number
/// that was given back is not to be had again at once.
const CHURN_MAX: u32 = 100_000;

/// Nanoseconds for a flow that is opened, established and closed, one after the other, `flows`
/// times.
fn churn(table: &mut Table<Mapped>, flows: u32) -> Result<f64> {
    let ((), ms) = timed_ms(|| {
        for number in 0..flows {
            let id: FlowId = table
                .open(&flow(number))
                .map_err(|error| anyhow::anyhow!("{error:?}"))?;
            table.establish(id, &TRANSLATION);
            table.close(id);
        }
        Ok(())
    })?;
    Ok(ms * 1e6 / f64::from(flows))
}

fn timed_ms<T>(work: impl FnOnce() -> Result<T>) -> Result<(T, f64)> {
    let start = Instant::now();
    let result = work()?;
    Ok((result, start.elapsed().as_secs_f64() * 1e3))
}

/// Kernel memory of a map, bytes: what the kernel itself tells.
fn memlock(map: &MapData) -> Result<f64> {
    let path = format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd());
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("memlock:"));
    let bytes = line.with_context(|| format!("{path} has no line memlock"))?;
    let bytes: u64 = bytes.trim().parse()?;
    Ok(bytes as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bound that the table was designed to.
    #[test]
    fn a_connection_takes_160_bytes_of_the_kernels_memory() {
        let rows = measure(1 << 16).unwrap();
        let memory = rows.iter().find(|row| row.name == "kernel_memory_per_flow");
        let bytes = memory.unwrap().value;
        assert!((160.0..162.0).contains(&bytes), "{bytes}");
    }
}
