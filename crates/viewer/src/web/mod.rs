//! The web page: noVNC in a small page of ours, fed by the same bytes as a VNC client, in a WebSocket, and a second WebSocket that
//! says who controls.
//!
//! Only this host can connect, and no other page that this host's browser has open: a request must name an address or
//! localhost as its host (a name that was rebound to 127.0.0.1 is refused), and a WebSocket must come from the page itself.
//!
//! A page opens `/control`, says its token if one is needed, gets a seat and a ticket, and opens `/screen` with the ticket. A
//! `/screen` without one is a VNC client that happens to speak WebSocket, and is asked for a token like any other.

mod control;
pub mod guard;
mod novnc;
mod ticket;

use std::io;
use std::sync::Arc;

use axum::Router;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tracing::debug;

use crate::client::{self, Choice, Entry, HANDSHAKE};
use crate::floor::InputCounts;
use crate::hub::{HeadStatus, Hub};
use crate::log::client_log;
use crate::{vnc, wire};

pub(crate) use novnc::NoVnc;
use ticket::{Ticket, Tickets};

const HTML: &str = "text/html; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// The page: where, what, which.
const FILES: [(&str, &str, &str); 8] = [
    ("/", HTML, include_str!("../../page/index.html")),
    ("/viewer.css", STYLE, include_str!("../../page/viewer.css")),
    ("/viewer.js", SCRIPT, include_str!("../../page/viewer.js")),
    ("/control.js", SCRIPT, include_str!("../../page/control.js")),
    ("/keys.js", SCRIPT, include_str!("../../page/keys.js")),
    ("/panels.js", SCRIPT, include_str!("../../page/panels.js")),
    ("/softkeys.js", SCRIPT, include_str!("../../page/softkeys.js")),
    ("/touch.js", SCRIPT, include_str!("../../page/touch.js")),
];

/// Longest message of an RFB WebSocket. Stops a browser that says much at once.
const MAX_MESSAGE: usize = 64 << 10;

/// Bytes of a request's head; a browser's has about one thousand.
const MAX_HEAD: usize = 16 << 10;

/// Nothing from elsewhere, and in no other page.
const POLICY: &str = "default-src 'self'; img-src 'self' data: blob:; connect-src 'self' ws: wss:; frame-ancestors 'none'; base-uri 'none'";

#[derive(Clone)]
struct Site {
    hub: Arc<Hub>,
    novnc: Arc<NoVnc>,
    tickets: Arc<Tickets>,
    head: u8,
}

/// What the page asks for in its address.
#[derive(Debug, Deserialize)]
struct Asked {
    head: Option<u8>,
    /// Whose screen it is.
    ticket: Option<String>,
    /// `drawn`: the guest's cursor is part of the picture.
    cursor: Option<String>,
}

/// What a page that was let in is told about the VM.
#[derive(Serialize)]
struct Vm {
    name: String,
    connected: bool,
    heads: Vec<HeadStatus>,
    /// What is missing when the page cannot show the screen.
    missing: Option<&'static str>,
}

/// What is told to whoever asks.
#[derive(Serialize)]
#[serde(untagged)]
enum Status {
    /// Where no token is needed.
    Open {
        #[serde(flatten)]
        vm: Vm,
        /// The head that this address shows.
        head: u8,
        input: InputCounts,
    },
    /// Nothing of the VM.
    Guarded { token_needed: bool },
}

impl Site {
    fn vm(&self) -> Vm {
        let (name, connected, heads) = self.hub.status();
        Vm { name, connected, heads, missing: self.novnc.missing() }
    }
}

/// Serves the page on a listener for ever.
pub(crate) async fn serve(
    listener: TcpListener,
    head: u8,
    hub: Arc<Hub>,
    novnc: Arc<NoVnc>,
    room: Arc<Semaphore>,
) -> io::Error {
    let router = router(Site { hub: hub.clone(), novnc, tickets: Arc::default(), head });
    vnc::accept(&listener, &room, &hub.lines, |stream, permit| {
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
    let file = |router: Router<Site>, (path, kind, text): (&'static str, &'static str, &'static str)| {
        router.route(path, get(move || async move { ([(header::CONTENT_TYPE, kind)], text) }))
    };
    let router = FILES.into_iter().fold(Router::new(), file);
    router
        .route("/status.json", get(status))
        .route("/novnc/{*path}", get(library))
        .route("/control", any(control))
        .route("/screen", any(screen))
        .with_state(site)
        .layer(middleware::from_fn_with_state(POLICY, guard::check))
}

async fn status(State(site): State<Site>) -> impl IntoResponse {
    axum::Json(match site.hub.door.needs_token() {
        true => Status::Guarded { token_needed: true },
        false => Status::Open { vm: site.vm(), head: site.head, input: site.hub.input_counts() },
    })
}

async fn library(State(site): State<Site>, Path(path): Path<String>) -> Response {
    match site.novnc.file(&path) {
        Some(bytes) => ([(header::CONTENT_TYPE, SCRIPT)], bytes).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn control(State(site): State<Site>, upgrade: WebSocketUpgrade) -> Response {
    upgrade.max_message_size(control::MAX_MESSAGE).max_frame_size(control::MAX_MESSAGE).write_buffer_size(0).on_upgrade(
        async move |socket| {
            let hub = site.hub.clone();
            match control::serve(site, socket).await {
                Ok(()) => debug!("Page left"),
                Err(end) => client_log!(hub.lines, info, "Page sent away: {end}"),
            }
        },
    )
}

async fn screen(State(site): State<Site>, Query(asked): Query<Asked>, upgrade: WebSocketUpgrade) -> Response {
    let head = asked.head.unwrap_or(site.head);
    let place = match asked.ticket.as_deref().map(Ticket::parse) {
        Some(ticket) => match ticket.and_then(|ticket| site.tickets.redeem(&ticket)) {
            Some(place) => Some(place),
            None => return (StatusCode::FORBIDDEN, "This ticket is good no more\n").into_response(),
        },
        None => None,
    };
    let is_admitted = place.is_some() || !site.hub.door.needs_token();
    let (_, connected, heads) = site.hub.status();
    if is_admitted && connected && usize::from(head) >= heads.len() {
        return (StatusCode::NOT_FOUND, "There is no such head\n").into_response();
    }
    let choice = Choice { head, drawn_cursor: asked.cursor.as_deref() == Some("drawn") };
    upgrade
        .protocols(["binary"])
        .max_message_size(MAX_MESSAGE)
        .max_frame_size(MAX_MESSAGE)
        .write_buffer_size(0)
        .on_upgrade(async move |socket| {
            let hub = site.hub;
            client_log!(hub.lines, info, head, "Browser");
            let (source, sink) = wire::web(socket);
            let ended = match place {
                None => {
                    client::serve(hub.clone(), source, sink, choice, Entry::Door("VNC in a browser".to_owned())).await
                }
                Some(place) => {
                    let entry = Entry::Seated(place.seat.clone());
                    tokio::select! {
                        ended = client::serve(hub.clone(), source, sink, choice, entry) => ended,
                        () = place.gone() => Ok(()),
                    }
                }
            };
            match ended {
                Ok(()) => client_log!(hub.lines, info, "Browser left"),
                Err(end) => client_log!(hub.lines, info, "Browser sent away: {end}"),
            }
        })
}
