//! What the tests here share.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};

use crate::{
    config::{Config, Service},
    engine::Tick,
    proxy::runtime::ServiceRuntime,
};

/// How long anything that should happen soon may take: the machine may be busy with other tests.
const SOON: Duration = Duration::from_secs(30);

/// A service with these keys and tables, and backends at these addresses.
pub(crate) fn service(keys: &str, backends: &[&str]) -> Service {
    let backends: String = backends
        .iter()
        .map(|address| format!("[[service.backend]]\naddress = \"{address}\"\n"))
        .collect();
    let text = format!(
        "[[interface]]\nname = \"eth0\"\n[[service]]\nname = \"web\"\naddress = \
         \"192.0.2.10:443\"\nmode = \"proxy\"\n{keys}\n{backends}"
    );
    let config = Config::parse("levee.toml", &text).unwrap();
    config.services.into_iter().next().unwrap()
}

/// The service as it runs from the start.
pub(super) fn runtime(keys: &str, backends: &[&str]) -> Arc<ServiceRuntime> {
    let service = service(keys, backends);
    Arc::new(ServiceRuntime::new(&service, None, Tick(0)).unwrap())
}

/// Addresses of the backends in force.
pub(super) fn addresses(service: &ServiceRuntime) -> Vec<String> {
    let pool = service.pool.load();
    let addresses = pool.backends.iter().map(|backend| backend.address);
    addresses.map(|address| address.to_string()).collect()
}

/// Waits until something is so.
pub(super) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !condition() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}
