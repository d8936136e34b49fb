//! The web page: noVNC in a small page of ours, fed by the same bytes as a VNC client, in a WebSocket.
//!
//! There is no password, so only this host may look, and no other page that this host's browser has open: a request must name
//! an address or localhost as its host (a name that was rebound to 127.0.0.1 is refused), and a WebSocket must come from the page
//! itself.

mod guard;
mod novnc;

use std::convert::Infallible;
use std::io;
use std::sync::Arc;

use axum::Router;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tracing::{debug, info};

use crate::client::{self, Choice, HANDSHAKE};
use crate::hub::{HeadStatus, Hub};
use crate::{vnc, wire};

pub(crate) use novnc::NoVnc;

const PAGE: &str = include_str!("../../page/index.html");
const SCRIPT: &str = include_str!("../../page/viewer.js");
const STYLE: &str = include_str!("../../page/viewer.css");

/// Longest message of a browser. Stops one that says much at once.
const MAX_MESSAGE: usize = 64 << 10;

/// Bytes of a request's head; a browser's has about one thousand.
const MAX_HEAD: usize = 16 << 10;

/// What every answer carries: nothing from elsewhere, in no other page, and asked for again each time.
const HEADERS: [(HeaderName, &str); 5] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'self'; img-src 'self' data: blob:; connect-src 'self' ws: wss:; frame-ancestors 'none'; base-uri 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-cache"),
];

#[derive(Clone)]
struct Site {
    hub: Arc<Hub>,
    novnc: Arc<NoVnc>,
    head: u8,
}

/// What the page asks for in its address.
#[derive(Debug, Deserialize)]
struct Asked {
    head: Option<u8>,
    /// `drawn`: the guest's cursor is part of the picture.
    cursor: Option<String>,
}

/// What the page tells about the VM.
#[derive(Serialize)]
struct Status {
    name: String,
    connected: bool,
    /// The head that this address shows.
    head: u8,
    heads: Vec<HeadStatus>,
    /// What is missing when the page cannot show the screen.
    missing: Option<&'static str>,
}

/// Serves the page on a listener for ever.
pub(crate) async fn serve(
    listener: TcpListener,
    head: u8,
    hub: Arc<Hub>,
    novnc: Arc<NoVnc>,
    room: Arc<Semaphore>,
) -> io::Error {
    let router = router(Site { hub, novnc, head });
    vnc::accept(&listener, &room, |stream, permit| {
        let service = TowerToHyperService::new(router.clone());
        tokio::spawn(async move {
            let served = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HANDSHAKE)
                .max_buf_size(MAX_HEAD)
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades()
                .await;
            if let Err(error) = served {
                debug!(%error, "A web connection broke");
            }
            drop(permit);
        });
    })
    .await
}

fn router(site: Site) -> Router {
    Router::new()
        .route("/", get(|| async { file("text/html; charset=utf-8", PAGE) }))
        .route("/viewer.js", get(|| async { file("text/javascript; charset=utf-8", SCRIPT) }))
        .route("/viewer.css", get(|| async { file("text/css; charset=utf-8", STYLE) }))
        .route("/status.json", get(status))
        .route("/novnc/{*path}", get(library))
        .route("/screen", any(screen))
        .with_state(site)
        .layer(middleware::from_fn(check))
}

fn file(kind: &'static str, text: &'static str) -> Response {
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

/// Every request passes here first.
async fn check(request: axum::extract::Request, next: Next) -> Result<Response, Infallible> {
    let mut response = match guard::admit(request.headers()) {
        Ok(()) => next.run(request).await,
        Err(refused) => {
            debug!("Refused a request: {refused}");
            (StatusCode::FORBIDDEN, format!("{refused}\n")).into_response()
        }
    };
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    Ok(response)
}

async fn status(State(site): State<Site>) -> impl IntoResponse {
    let (name, connected, heads) = site.hub.status();
    axum::Json(Status { name, connected, head: site.head, heads, missing: site.novnc.missing() })
}

async fn library(State(site): State<Site>, Path(path): Path<String>) -> Response {
    match site.novnc.file(&path) {
        Some(bytes) => ([(header::CONTENT_TYPE, "text/javascript; charset=utf-8")], bytes).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn screen(State(site): State<Site>, Query(asked): Query<Asked>, upgrade: WebSocketUpgrade) -> Response {
    let head = asked.head.unwrap_or(site.head);
    let (_, connected, heads) = site.hub.status();
    if connected && usize::from(head) >= heads.len() {
        return (StatusCode::NOT_FOUND, "There is no such head\n").into_response();
    }
    let choice = Choice { head, drawn_cursor: asked.cursor.as_deref() == Some("drawn") };
    upgrade
        .protocols(["binary"])
        .max_message_size(MAX_MESSAGE)
        .max_frame_size(MAX_MESSAGE)
        .write_buffer_size(0)
        .on_upgrade(async move |socket| {
            info!(head, "Browser");
            let (source, sink) = wire::web(socket);
            match client::serve(site.hub, source, sink, choice).await {
                Ok(()) => info!("Browser left"),
                Err(end) => info!("Browser sent away: {end}"),
            }
        })
}
