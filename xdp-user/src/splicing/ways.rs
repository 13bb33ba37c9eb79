//! The task that keeps the ways to targets up to date.

use std::{
    collections::{HashMap, HashSet},
    convert::Infallible,
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result};
use tokio::{
    task::spawn_blocking,
    time::{sleep, timeout},
};

use super::{
    Spliced,
    hops::{Finder, Obstacle},
};
use crate::shared::Shared;

/// Between two looks: as often as the data path takes a way as confirmed.
const PERIOD: Duration = Duration::from_secs(1);

/// Between two looks while a neighbour has been asked for and has not answered.
const PERIOD_ASKED: Duration = Duration::from_millis(50);

/// Looks in a row that come so soon: whoever has not answered by then gets a second each time.
const ASKED_MAX: u32 = 10;

/// Looks for the ways to the targets that are published, through the interfaces with these indexes,
/// for ever: each second, and when the splice thread misses one.
///
/// # Errors
/// Fails when a look panics.
pub async fn run(
    shared: Arc<Shared>,
    spliced: Arc<Spliced>,
    attached: HashSet<u32>,
    mut finder: Finder,
) -> Result<Infallible> {
    let attached = Arc::new(attached);
    let mut said = None;
    let mut asked = 0;
    loop {
        let targets = shared.with(|running| running.protection.targets().collect());
        let targets: Vec<(SocketAddr, u16)> = targets.unwrap_or_default();
        let (looked_at, hops) = (Arc::clone(&attached), Arc::clone(&spliced.hops));
        // The kernel's answers may be long.
        let (back, found) = spawn_blocking(move || {
            let found = finder.find(&targets, &looked_at, &hops);
            (finder, found)
        })
        .await
        .context("looking for the ways to targets failed")?;
        finder = back;
        let told = found.and_then(|changed| {
            let told = shared.with(|running| running.protection.set_hops(&changed));
            told.unwrap_or(Ok(()))
        });
        let trouble = told.err().map(|error| format!("{error:#}"));
        if let Some(trouble) = &trouble
            && said.as_ref() != Some(trouble)
        {
            log::warn!("cannot look for the ways to targets: {trouble}");
        }
        said = trouble;
        publish(&spliced, &finder);
        let soon = is_asking(&finder) && asked < ASKED_MAX;
        if soon {
            asked += 1;
            sleep(PERIOD_ASKED).await;
        } else if timeout(PERIOD, spliced.hops.wanted()).await.is_ok() || !is_asking(&finder) {
            asked = 0;
        }
    }
}

/// Tells others of the targets that cannot be reached.
pub fn publish(spliced: &Spliced, finder: &Finder) {
    let obstacles = finder.obstacles();
    let obstacles = obstacles.map(|(slot, obstacle)| (slot, obstacle.to_string()));
    let obstacles: HashMap<_, _> = obstacles.collect();
    if *spliced.obstacles.load() != obstacles {
        spliced.obstacles.store(obstacles);
    }
}

/// Whether a neighbour was asked for that has not answered yet.
pub(super) fn is_asking(finder: &Finder) -> bool {
    let mut obstacles = finder.obstacles();
    obstacles.any(|(_, obstacle)| matches!(obstacle, Obstacle::NoNeighbour(_)))
}
