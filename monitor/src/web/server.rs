//! Takes connections and sees them to their end.
//!
//! Bounded in number, and each in the time that it may take to say what it wants. At the end of the monitor what is
//! being answered is finished; event streams end by themselves then.

use super::{guard::Peer, router};
use crate::Monitor;
use axum::body::Body;
use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
};
use tower_service::Service;

/// Connections at once; whoever comes later waits in the system's queue. A browser opens six.
const MAX_CONNECTIONS: usize = 512;

/// For the head of a request, and for the next one on a connection that stays.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// A longer head is none of our pages'.
const MAX_HEAD_BYTES: usize = 32 << 10;

/// For answers that are being given when the monitor ends.
const LAST_ANSWERS: Duration = Duration::from_secs(5);

/// Between two tries to take a connection when the system gives none (no file descriptors).
const ACCEPT_AGAIN: Duration = Duration::from_millis(200);

/// Serves until the monitor stops.
pub async fn run(listener: TcpListener, monitor: Arc<Monitor>) {
    let app = router(monitor.clone());
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = monitor.stop.cancelled() => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            accepted = accept(&listener, &places) => accepted,
        };
        match accepted {
            Ok((stream, peer, place)) => {
                let (app, monitor) = (app.clone(), monitor.clone());
                connections.spawn(async move {
                    let _place = place;
                    connection(stream, peer, app, &monitor).await;
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be taken");
                tokio::time::sleep(ACCEPT_AGAIN).await;
            }
        }
    }
    let ending = async { while connections.join_next().await.is_some() {} };
    let _cut_short = tokio::time::timeout(LAST_ANSWERS, ending).await;
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> std::io::Result<(TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit)> {
    let place = places.clone().acquire_owned().await.map_err(std::io::Error::other)?;
    let (stream, peer) = listener.accept().await?;
    Ok((stream, peer, place))
}

async fn connection(stream: TcpStream, peer: SocketAddr, app: axum::Router, monitor: &Monitor) {
    // Events are small and wanted at once; without it they would wait for the last one's receipt.
    let _slower = stream.set_nodelay(true);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(Peer(peer.ip()));
        app.clone().call(request.map(Body::new))
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let mut serving = std::pin::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = monitor.stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        // Browsers hang up whenever they like.
        tracing::debug!(%error, "a connection ended early");
    }
}
