//! Nanoseconds per packet of the data path, by `BPF_PROG_TEST_RUN`, for every path through it and
//! for programs that only drop or only send back, in turns in one run.
//!
//! A packet that is dropped or passed stays as it is, and the kernel runs the program on it again
//! and again; its floor is `XDP_DROP`. One that is answered does not stay a SYN: there, a program of
//! the lab copies the SYN over the packet and tail-calls the data path. What the copy and the tail
//! call cost is measured by having the same program tail-call the `XDP_TX` floor instead, and
//! subtracted:
//!
//! ```text
//! net_ns = (restore + levee) - (restore + floor_tx)
//! ns     = net_ns + floor_tx
//! ```
//!
//! Caches are warm and there is one flow, so this is what the instructions cost, and not what a
//! flood from many sources does to the caches: `bench flood` measures that. The exceptions are the
//! rows of a thousand and a million spliced connections, where every packet is of another one.
mod paths;
mod subject;

use anyhow::{Context as _, Result};
use serde::Serialize;

use self::{
    paths::{FEW, MANY, Traffic, Which},
    subject::{Floors, Subject},
};
use super::{host::Host, median::median};
use crate::{
    fixtures::{
        self,
        rig::{Rig, SplicedRig},
        spliced::given,
    },
    interrupt::{Interrupt, Interrupted},
    netns::Netns,
};

/// What the user may choose.
#[derive(Clone, Copy, Debug)]
pub struct DatapathOptions {
    /// How often everything is measured; medians are reported.
    pub rounds: u32,
    /// Print JSON on standard output instead of the table.
    pub json: bool,
}

/// Runs of a program per measurement: about a tenth of a second.
const REPEAT: u32 = 1_000_000;

/// One path's result.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// What was measured.
    pub name: &'static str,
    /// Time per packet, nanoseconds.
    pub ns: f64,
    /// That without the floor: `floor_tx` for what is answered or forwarded, `floor_drop` for
    /// everything else.
    pub net_ns: f64,
}

/// Measures and reports.
///
/// # Errors
/// Fails without root, as levee's own start does, and when a packet does not take the path that is
/// to be measured.
pub fn run(options: DatapathOptions, interrupt: &Interrupt) -> Result<()> {
    let netns = Netns::new("datapath")?;
    let traffic = Traffic::prepare(&netns)?;
    let rows = netns.run(|| {
        let mut rigs = Rigs::load()?;
        measure(options, interrupt, &traffic, &mut rigs)
    })?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
    } else {
        print_table(&rows, options.rounds)?;
    }
    Ok(())
}

fn measure(
    options: DatapathOptions,
    interrupt: &Interrupt,
    traffic: &Traffic,
    rigs: &mut Rigs,
) -> Result<Vec<Row>> {
    let mut floors = Floors::load()?;
    let mut subjects = Vec::new();
    for path in paths::all(traffic)? {
        let rig = rigs.get(path.rig);
        subjects.push(Subject::prepare(path, rig, &mut floors)?);
    }
    let mut samples = Samples::new(&subjects);
    for round in 1..=options.rounds {
        eprintln!("round {round} of {}", options.rounds);
        samples.add(&mut subjects, &mut floors, rigs, interrupt)?;
    }
    Ok(samples.rows(&subjects))
}

/// The data paths. All but the first are in namespaces of their own, but measured in that of the
/// first.
struct Rigs {
    checked: Rig,
    unchecked: Rig,
    spliced: SplicedRig,
    crowded: SplicedRig,
    _netns: [Netns; 3],
}

impl Rigs {
    fn load() -> Result<Self> {
        let [unchecked, spliced, crowded] =
            ["datapath-unchecked", "datapath-spliced", "datapath-crowded"].map(Netns::new);
        let netns = [unchecked?, spliced?, crowded?];
        Ok(Self {
            checked: Rig::new(true)?,
            unchecked: netns[0].run(|| Rig::new(false))?,
            spliced: netns[1].run(|| {
                let mut rig = crowd(FEW, FEW + 2)?;
                for family in fixtures::FAMILIES {
                    rig.enter(&given::flow(family))?;
                }
                Ok(rig)
            })?,
            crowded: netns[2].run(|| crowd(MANY, MANY))?,
            _netns: netns,
        })
    }

    fn get(&mut self, which: Which) -> &mut Rig {
        match which {
            Which::Checked => &mut self.checked,
            Which::Unchecked => &mut self.unchecked,
            Which::Spliced => self.spliced.rig(),
            Which::Crowded => self.crowded.rig(),
        }
    }
}

/// A data path with that many spliced connections, of which `room` fit. Targets are reached through
/// the interface that packets come in on.
fn crowd(connections: u32, room: u32) -> Result<SplicedRig> {
    let mut rig = SplicedRig::new(room)?;
    for family in fixtures::FAMILIES {
        let mut target = given::target_entry(family);
        target.hop.ifindex = given::INSIDE;
        rig.set_target(given::target_slot(family), &target)?;
    }
    for number in 0..connections {
        rig.enter(&paths::crowd(number))?;
    }
    Ok(rig)
}

/// Measurements by round.
struct Samples {
    floor_drop: Vec<f64>,
    floor_tx: Vec<f64>,
    /// By subject: time, and time without the floor.
    paths: Vec<(Vec<f64>, Vec<f64>)>,
}

impl Samples {
    fn new(subjects: &[Subject]) -> Self {
        Self {
            floor_drop: Vec::new(),
            floor_tx: Vec::new(),
            paths: vec![(Vec::new(), Vec::new()); subjects.len()],
        }
    }

    /// Measures everything once.
    fn add(
        &mut self,
        subjects: &mut [Subject],
        floors: &mut Floors,
        rigs: &mut Rigs,
        interrupt: &Interrupt,
    ) -> Result<()> {
        let drop_ns = unless_interrupted(floors.drop_ns(REPEAT), interrupt)?;
        let tx_ns = unless_interrupted(floors.tx_ns(REPEAT), interrupt)?;
        for (subject, (ns, net_ns)) in subjects.iter_mut().zip(&mut self.paths) {
            let rig = rigs.get(subject.path.rig);
            let time = unless_interrupted(subject.time(rig, REPEAT), interrupt)
                .with_context(|| subject.path.name)?;
            let net = time.ns - time.restored_floor_ns.unwrap_or(drop_ns);
            net_ns.push(net);
            ns.push(match time.restored_floor_ns {
                Some(_) => net + tx_ns,
                None => time.ns,
            });
        }
        self.floor_drop.push(drop_ns);
        self.floor_tx.push(tx_ns);
        Ok(())
    }

    fn rows(mut self, subjects: &[Subject]) -> Vec<Row> {
        let floors = [
            ("floor_drop", &mut self.floor_drop),
            ("floor_tx", &mut self.floor_tx),
        ];
        let mut rows: Vec<_> = floors
            .into_iter()
            .map(|(name, samples)| Row {
                name,
                ns: median(samples),
                net_ns: 0.0,
            })
            .collect();
        for (subject, (ns, net_ns)) in subjects.iter().zip(&mut self.paths) {
            rows.push(Row {
                name: subject.path.name,
                ns: median(ns),
                net_ns: median(net_ns),
            });
        }
        rows
    }
}

/// A signal ends a test run with EINTR: what the user did, not what went wrong.
fn unless_interrupted<T>(result: Result<T>, interrupt: &Interrupt) -> Result<T> {
    match interrupt.check() {
        Ok(()) => result,
        Err(_) => Err(Interrupted.into()),
    }
}

fn print_table(rows: &[Row], rounds: u32) -> Result<()> {
    println!("{}", Host::ask()?);
    println!("medians of {rounds} rounds of {REPEAT} runs each\n");
    println!("{:<28} {:>8} {:>10}", "path", "ns", "net ns");
    for Row { name, ns, net_ns } in rows {
        println!("{name:<28} {ns:>8.0} {net_ns:>10.0}");
    }
    println!(
        "\nnet of floor_tx for what is answered (syn_*) or forwarded, of floor_drop for everything else"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_what_the_json_promises() {
        let row = Row {
            name: "syn_v4",
            ns: 101.0,
            net_ns: 50.0,
        };
        let json = serde_json::to_string(&row).unwrap();
        assert_eq!(json, r#"{"name":"syn_v4","ns":101.0,"net_ns":50.0}"#);
    }

    #[test]
    fn every_path_is_a_fixture_with_a_name_of_its_own() {
        let mut names = Vec::new();
        for (name, fixture, _) in paths::FIXTURES {
            assert!(fixtures::find(fixture).is_some(), "{fixture}");
            names.push(name);
        }
        for (name, fixture) in paths::SPLICED {
            assert!(fixtures::spliced::find(fixture).is_some(), "{fixture}");
            names.push(name);
        }
        for (position, name) in names.iter().enumerate() {
            assert!(!names[..position].contains(name), "{name}");
        }
    }
}
