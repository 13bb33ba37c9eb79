//! The HTTP server for Prometheus and for health checks: `/metrics`, `/-/healthy`, `/-/ready`.

use std::{
    collections::VecDeque, convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{ALLOW, CONTENT_TYPE},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::TcpListener,
    sync::Mutex,
    task::{self, AbortHandle, JoinSet},
    time,
};

use crate::{
    metrics::{self, Metrics},
    shared::Shared,
};

/// Connections served at once. Prometheus needs one. The oldest gives way to a newer one, so that
/// nobody who holds connections open keeps others from being served.
const CONNECTIONS_MAX: usize = 32;

/// Time a client has for the head of a request, also on a connection kept alive.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// Time a connection lives at most.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(600);

/// Pause after a failed accept, as when file descriptors ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a page is made of.
type Page = Response<Full<Bytes>>;

/// Claims the address.
///
/// # Errors
/// Fails when it is in use or not an address of this machine, and says how to choose another.
pub async fn bind(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        let reason = match error.kind() {
            io::ErrorKind::AddrInUse => "another program listens there already",
            io::ErrorKind::AddrNotAvailable => "that is not an address of this machine",
            _ => "the system refuses",
        };
        anyhow!(error).context(format!(
            "cannot serve metrics at {address}: {reason}. Choose another address with \
             metrics.listen or --metrics, or \"off\""
        ))
    })
}

/// Serves until it is dropped.
///
/// # Errors
/// Fails only before the first connection.
pub async fn serve(listener: TcpListener, shared: Arc<Shared>) -> Result<Infallible> {
    let metrics = Metrics::new().context("cannot set up the metrics")?;
    serve_from(listener, shared, Arc::new(Mutex::new(metrics))).await
}

async fn serve_from(
    listener: TcpListener,
    shared: Arc<Shared>,
    metrics: Arc<Mutex<Metrics>>,
) -> Result<Infallible> {
    // Dropping the set ends its connections.
    let mut connections = JoinSet::new();
    let mut by_age: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                log::warn!("metrics server: cannot accept a connection: {error}");
                time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (shared, metrics) = (Arc::clone(&shared), Arc::clone(&metrics));
        let answer = service_fn(move |request| {
            let (shared, metrics) = (Arc::clone(&shared), Arc::clone(&metrics));
            async move { Ok::<_, Infallible>(page(&request, &shared, metrics).await) }
        });
        while connections.try_join_next().is_some() {}
        by_age.retain(|connection| !connection.is_finished());
        if by_age.len() >= CONNECTIONS_MAX
            && let Some(oldest) = by_age.pop_front()
        {
            oldest.abort();
        }
        by_age.push_back(connections.spawn(async move {
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .serve_connection(TokioIo::new(stream), answer);
            if let Ok(Err(error)) = time::timeout(CONNECTION_TIMEOUT, connection).await {
                log::debug!("metrics server: {error}");
            }
        }));
        // Whoever came in a crowd and has asked already is answered before the next comes in.
        task::yield_now().await;
    }
}

async fn page(request: &Request<Incoming>, shared: &Shared, metrics: Arc<Mutex<Metrics>>) -> Page {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut page = text(
            StatusCode::METHOD_NOT_ALLOWED,
            "allowed: GET, HEAD\n".into(),
        );
        page.headers_mut()
            .insert(ALLOW, hyper::header::HeaderValue::from_static("GET, HEAD"));
        return page;
    }
    match request.uri().path() {
        "/metrics" => metrics_page(shared, metrics).await,
        "/-/healthy" => text(StatusCode::OK, "levee is healthy\n".into()),
        "/-/ready" => match shared.readiness() {
            Ok(()) => text(StatusCode::OK, "levee is ready\n".into()),
            Err(reason) => text(
                StatusCode::SERVICE_UNAVAILABLE,
                format!("not ready: {reason}\n"),
            ),
        },
        path => text(
            StatusCode::NOT_FOUND,
            format!("no page {path}; there are /metrics, /-/healthy and /-/ready\n"),
        ),
    }
}

async fn metrics_page(shared: &Shared, metrics: Arc<Mutex<Metrics>>) -> Page {
    match render(shared, metrics).await {
        Ok(body) => page_of(StatusCode::OK, metrics::CONTENT_TYPE, body),
        Err(error) => {
            log::error!("cannot make the metrics: {error:#}");
            text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}\n"))
        }
    }
}

/// The metrics, as they are when it is their turn. They are made one after the other, and not on this
/// thread: those of thousands of backends take a second, in which it has other things to do.
async fn render(shared: &Shared, metrics: Arc<Mutex<Metrics>>) -> Result<String> {
    let metrics = metrics.lock_owned().await;
    let snapshot = shared.snapshot()?;
    // The turn is over when they are made, also if nobody waits for them any more.
    task::spawn_blocking(move || metrics.render(snapshot.as_ref())).await?
}

fn text(status: StatusCode, body: String) -> Page {
    page_of(status, "text/plain; charset=utf-8", body)
}

fn page_of(status: StatusCode, content_type: &'static str, body: String) -> Page {
    let mut page = Response::new(Full::new(Bytes::from(body)));
    *page.status_mut() = status;
    page.headers_mut().insert(
        CONTENT_TYPE,
        hyper::header::HeaderValue::from_static(content_type),
    );
    page
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::TcpStream,
    };

    use tokio::runtime::Builder;

    use super::*;

    /// Runs `test` against a server of a levee that is starting.
    fn with_server(test: impl FnOnce(SocketAddr) + Send + 'static) {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
            let address = listener.local_addr().unwrap();
            let server = tokio::spawn(serve(listener, Arc::new(Shared::new())));
            task::spawn_blocking(move || test(address)).await.unwrap();
            server.abort();
        });
    }

    fn say(address: SocketAddr, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        // The server may have heard enough before all of it is sent.
        let _ = stream.write_all(request);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }

    #[test]
    fn pages_and_refusals() {
        with_server(|address| {
            let huge = [&b"GET / HTTP/1.1\r\nX: "[..], &[b'a'; 1 << 20]].concat();
            let cases: [(&[u8], &str); 8] = [
                (b"GET /-/healthy HTTP/1.0\r\n\r\n", "HTTP/1.0 200"),
                (b"GET /-/ready HTTP/1.0\r\n\r\n", "HTTP/1.0 503"),
                (b"GET /nothing HTTP/1.0\r\n\r\n", "HTTP/1.0 404"),
                (b"POST /metrics HTTP/1.0\r\n\r\n", "HTTP/1.0 405"),
                (b"GET /\xff HTTP/1.0\r\n\r\n", "HTTP/1.1 400"),
                (b"GET /metrics\r\n\r\n", "HTTP/1.1 400"),
                (b"\x16\x03\x01\x02\x00\r\n\r\n", "HTTP/1.1 400"),
                (&huge, "HTTP/1.1 431"),
            ];
            for (request, expected) in cases {
                let answer = say(address, request);
                assert!(answer.starts_with(expected), "{expected}: {answer}");
            }
        });
    }

    #[test]
    fn metrics_in_the_making_keep_no_other_page_waiting() {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
            let address = listener.local_addr().unwrap();
            let metrics = Arc::new(Mutex::new(Metrics::new().unwrap()));
            let shared = Arc::new(Shared::new());
            let server = tokio::spawn(serve_from(listener, shared, Arc::clone(&metrics)));
            let ask = |page: &str| {
                let request = format!("GET {page} HTTP/1.0\r\n\r\n");
                task::spawn_blocking(move || say(address, request.as_bytes()))
            };
            let made = metrics.lock_owned().await;
            let waiting = ask("/metrics");
            let answer = ask("/-/healthy").await.unwrap();
            assert!(answer.contains("levee is healthy"), "{answer}");
            assert!(!waiting.is_finished());
            drop(made);
            let answer = waiting.await.unwrap();
            assert!(answer.contains("levee_build_info"), "{answer}");
            server.abort();
        });
    }

    #[test]
    fn idle_connections_do_not_keep_others_out() {
        with_server(|address| {
            let idle: Vec<_> = (0..4 * CONNECTIONS_MAX)
                .map(|_| TcpStream::connect(address).unwrap())
                .collect();
            let answer = say(address, b"GET /-/healthy HTTP/1.0\r\n\r\n");
            assert!(answer.contains("levee is healthy"), "{answer}");
            drop(idle);
        });
    }
}
