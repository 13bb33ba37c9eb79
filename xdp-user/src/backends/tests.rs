use std::sync::atomic::Ordering::Relaxed;

use tokio::{net::TcpListener, task::AbortHandle};

use super::{
    dns_server::{DnsServer, SERVFAIL, Zone},
    fixture::{addresses, eventually, runtime, service},
    *,
};

const CHECKED: &str =
    "[service.check]\ntype = \"tcp\"\ninterval = \"100ms\"\ntimeout = \"100ms\"\nfall = 2";

/// Starts [`run`]; dropped, it ends.
struct Running {
    services: watch::Sender<Vec<Arc<ServiceRuntime>>>,
    task: AbortHandle,
}

impl Running {
    fn new(service: &Arc<ServiceRuntime>, dns: Option<SocketAddr>) -> Self {
        let (services, receiver) = watch::channel(vec![Arc::clone(service)]);
        let task = tokio::spawn(run(receiver, dns, Instant::now())).abort_handle();
        Self { services, task }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn usable(service: &ServiceRuntime) -> Vec<bool> {
    let pool = service.pool.load();
    let backends = pool.backends.iter();
    backends.map(|b| b.usable.load(Relaxed)).collect()
}

#[tokio::test]
async fn a_server_that_goes_is_down_and_up_again_when_it_is_back() {
    let stays = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let goes = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let [first, second] = [&stays, &goes].map(|l| l.local_addr().unwrap().to_string());
    let service = runtime(CHECKED, &[&first, &second]);
    let _running = Running::new(&service, None);
    let checked = || {
        let pool = service.pool.load();
        let mut backends = pool.backends.iter();
        backends.all(|b| b.stats.checks_ok.get() > 0)
    };
    eventually("both are checked", checked).await;
    assert_eq!(usable(&service), [true, true]);
    drop(goes);
    eventually("one is down", || usable(&service) == [true, false]).await;
    let pool = service.pool.load();
    assert!(pool.backends[1].last_check().unwrap().result.is_err());
    let _back = TcpListener::bind(&second).await.unwrap();
    eventually("it is up", || usable(&service) == [true, true]).await;
}

#[tokio::test]
async fn another_configuration_takes_the_place_of_the_former() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let former = runtime(CHECKED, &[&address]);
    let running = Running::new(&former, None);
    let backend = Arc::clone(&former.pool.load().backends[0]);
    eventually("it is checked", || backend.stats.checks_ok.get() > 0).await;
    let unchecked = service("", &[&address]);
    let latter = ServiceRuntime::new(&unchecked, Some(&former), Tick(0)).unwrap();
    let version = latter.pool.version();
    let latter = Arc::new(latter);
    running.services.send(vec![Arc::clone(&latter)]).unwrap();
    eventually("it is taken over", || latter.pool.version() > version).await;
    let checks = backend.stats.checks_ok.get();
    sleep(Duration::from_millis(500)).await;
    assert_eq!(backend.stats.checks_ok.get(), checks);
}

#[tokio::test]
async fn a_name_is_looked_up_again_when_its_ttl_has_run_out() {
    let server = DnsServer::new();
    server.set("app.example", Zone::of(1, &["127.0.0.3", "127.0.0.2"]));
    let service = runtime("", &["app.example:8080", "10.0.0.1:80"]);
    assert_eq!(addresses(&service), ["10.0.0.1:80"]);
    assert!(!service.resolved[0].load(Relaxed));
    let _running = Running::new(&service, Some(server.address));
    eventually("it is found", || service.resolved[0].load(Relaxed)).await;
    let first = ["127.0.0.2:8080", "127.0.0.3:8080", "10.0.0.1:80"];
    assert_eq!(addresses(&service), first);
    let kept = Arc::clone(&service.pool.load().backends[1]);

    server.set("app.example", Zone::of(1, &["127.0.0.4", "127.0.0.3"]));
    let second = ["127.0.0.3:8080", "127.0.0.4:8080", "10.0.0.1:80"];
    eventually("the new set", || addresses(&service) == second).await;
    assert!(Arc::ptr_eq(&service.pool.load().backends[0], &kept));

    server.set("app.example", Zone::Codes([SERVFAIL; 2]));
    eventually("it fails", || !service.resolved[0].load(Relaxed)).await;
    assert_eq!(addresses(&service), second);
}

#[tokio::test]
async fn a_name_that_leads_back_to_the_service_is_not_followed() {
    let server = DnsServer::new();
    server.set("app.example", Zone::of(60, &["192.0.2.10", "127.0.0.2"]));
    // The service is at 192.0.2.10:443.
    let service = runtime("", &["app.example:443"]);
    let _running = Running::new(&service, Some(server.address));
    eventually("it is found", || service.resolved[0].load(Relaxed)).await;
    assert_eq!(addresses(&service), ["127.0.0.2:443"]);
}

#[tokio::test]
async fn the_addresses_of_a_name_are_checked_as_long_as_it_has_them() {
    let server = DnsServer::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    server.set("app.example", Zone::of(1, &["127.0.0.1", "127.0.0.2"]));
    let service = runtime(CHECKED, &[&format!("app.example:{port}")]);
    let _running = Running::new(&service, Some(server.address));
    eventually("one of them serves", || usable(&service) == [true, false]).await;
    let gone = Arc::clone(&service.pool.load().backends[1]);
    server.set("app.example", Zone::of(60, &["127.0.0.1"]));
    eventually("the other is gone", || usable(&service) == [true]).await;
    sleep(Duration::from_millis(300)).await;
    let checks = gone.stats.checks_failed.get();
    sleep(Duration::from_millis(500)).await;
    assert_eq!(gone.stats.checks_failed.get(), checks);
}

#[tokio::test]
async fn a_reload_keeps_the_addresses_of_a_name() {
    let server = DnsServer::new();
    server.set("app.example", Zone::of(60, &["127.0.0.2"]));
    let first = runtime("", &["app.example:80"]);
    let _running = Running::new(&first, Some(server.address));
    eventually("it is found", || first.resolved[0].load(Relaxed)).await;
    let again = service("retries = 7", &["10.0.0.1:80", "app.example:80"]);
    let second = ServiceRuntime::new(&again, Some(&first), Tick(1)).unwrap();
    assert_eq!(addresses(&second), ["10.0.0.1:80", "127.0.0.2:80"]);
    assert!(second.resolved[1].load(Relaxed));
}

#[tokio::test]
async fn checks_without_a_place_are_not_done_and_blame_nobody() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let waiting = runtime(CHECKED, &[&address]);
    let shared = Arc::new(Shared::new(&[], None, Instant::now()));
    let permits = shared.checks.acquire_many(CHECKS_MAX as u32).await.unwrap();
    let keeper = Keeper::new(Arc::clone(&waiting), Arc::clone(&shared));
    let task = tokio::spawn(keeper.run());
    let pool = waiting.pool.load();
    let stats = &pool.backends[0].stats;
    eventually("it is not done", || stats.checks_not_done.get() > 2).await;
    assert_eq!(stats.checks_failed.get(), 0);
    assert_eq!(usable(&waiting), [true]);
    drop(permits);
    eventually("it is done", || stats.checks_ok.get() > 0).await;
    task.abort();
}

#[tokio::test]
async fn a_file_that_is_not_there_yet_is_read_when_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ca.pem");
    let keys = format!(
        "[service.check]\ntype = \"tls\"\nverify = \"ca\"\nca_file = {file:?}\ninterval = \
         \"100ms\"\ntimeout = \"100ms\""
    );
    let service = runtime(&keys, &["127.0.0.1:1"]);
    let _running = Running::new(&service, None);
    sleep(Duration::from_millis(300)).await;
    let pool = service.pool.load();
    let stats = &pool.backends[0].stats;
    assert_eq!(stats.checks_failed.get(), 0);
    let certificate = rcgen::generate_simple_self_signed(["a.example".to_owned()]).unwrap();
    std::fs::write(&file, certificate.cert.pem()).unwrap();
    eventually("it is checked", || stats.checks_failed.get() > 0).await;
}
