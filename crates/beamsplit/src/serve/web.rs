//! The manager's web page: all vGPUs of the host at a glance, for browsers on this host.
//!
//! Any user of the host can connect to a port, so without a token the page only looks, and with `--tokens` it does not even that;
//! starting and stopping always takes a token for control. The file is read for each request: a token that is taken out counts
//! no more at once.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use viewer::{Right, Tokens, guard};

use super::routes::{self, App, VERSION};

const HTML: &str = "text/html; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// The page: where, what, which.
const FILES: [(&str, &str, &str); 3] = [
    ("/", HTML, include_str!("../../page/index.html")),
    ("/overview.css", STYLE, include_str!("../../page/overview.css")),
    ("/overview.js", SCRIPT, include_str!("../../page/overview.js")),
];
/// Nothing from elsewhere, and in no other page.
const POLICY: &str =
    "default-src 'self'; img-src 'self' data: blob:; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'";
/// Connections at once.
const CLIENTS: usize = 64;
/// Bytes of a request's head; a browser's has about one thousand.
const MAX_HEAD: usize = 16 << 10;
/// How long the head of a request may take.
const HEAD: Duration = Duration::from_secs(10);
/// How long a connection may last; browsers make another.
const LIFE: Duration = Duration::from_secs(120);

/// Who may.
#[derive(Debug, Clone)]
pub struct Door(Option<PathBuf>);

impl Door {
    /// Guarded by the tokens in this file, which must be good now.
    pub fn new(tokens: Option<PathBuf>) -> Result<Self> {
        tokens.as_deref().map(Tokens::read).transpose()?;
        Ok(Door(tokens))
    }

    /// What one with these headers may do; none: nothing.
    fn right(&self, headers: &HeaderMap) -> Option<Right> {
        let Some(path) = &self.0 else { return Some(Right::Look) };
        let said = headers.get(header::AUTHORIZATION)?.as_bytes().strip_prefix(b"Bearer ")?;
        match Tokens::read(path) {
            Ok(tokens) => tokens.right_of(said),
            Err(error) => {
                tracing::error!("Nobody is let in: {:#}", anyhow::Error::from(error));
                None
            }
        }
    }
}

/// Binds the port; only on this host.
pub fn bind(address: &str) -> Result<std::net::TcpListener> {
    let port_alone = address.parse::<u16>().map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    let address: SocketAddr = match port_alone {
        Ok(address) => address,
        Err(_) => address.parse().with_context(|| format!("'{address}' is not 127.0.0.1:PORT or a port"))?,
    };
    ensure!(
        address.ip().is_loopback(),
        "--web {address} would show all screens to the network: use 127.0.0.1 and an SSH tunnel"
    );
    let listener = std::net::TcpListener::bind(address).with_context(|| format!("Cannot listen on {address}"))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Serves the page for ever.
pub async fn serve(listener: std::net::TcpListener, app: App, door: Door) -> Result<Infallible> {
    let listener = TcpListener::from_std(listener).context("Cannot use the port")?;
    let router = router(app, door);
    let room = Arc::new(Semaphore::new(CLIENTS));
    loop {
        let (stream, _) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!("Cannot accept a connection: {error}");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(place) = room.clone().try_acquire_owned() else { continue };
        let service = TowerToHyperService::new(router.clone());
        tokio::spawn(async move {
            let mut builder = hyper::server::conn::http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(MAX_HEAD);
            let _ = timeout(LIFE, builder.serve_connection(TokioIo::new(stream), service)).await;
            drop(place);
        });
    }
}

fn router(app: App, door: Door) -> Router {
    let file = |router: Router<App>, (path, kind, text): (&'static str, &'static str, &'static str)| {
        router.route(path, get(move || async move { ([(header::CONTENT_TYPE, kind)], text) }))
    };
    let api = Router::new()
        .route("/v1/session", get(session))
        .route("/v1/gpus", get(routes::gpus))
        .route("/v1/types", get(routes::types))
        .route("/v1/vgpus", get(routes::list))
        .route("/v1/vgpus/{vgpu}", get(routes::show))
        .route("/v1/vgpus/{vgpu}/screenshot", get(routes::screenshot))
        .route("/v1/vgpus/{vgpu}/stats", get(routes::stats))
        .route("/v1/vgpus/{vgpu}/start", post(routes::start))
        .route("/v1/vgpus/{vgpu}/stop", post(routes::stop))
        .layer(middleware::from_fn_with_state(door, admit));
    let pages = FILES.into_iter().fold(Router::new(), file);
    let all = pages.merge(api).layer(middleware::map_response(routes::refusals_in_json));
    all.with_state(app).layer(middleware::from_fn_with_state(POLICY, guard::check))
}

async fn session(Extension(right): Extension<Right>) -> Json<serde_json::Value> {
    Json(json!({ "version": VERSION, "right": right }))
}

/// What is asked for must be allowed.
async fn admit(State(door): State<Door>, mut request: Request, next: Next) -> Response {
    let refuse =
        |status: StatusCode, why: &str| (status, Json(json!({ "version": VERSION, "error": why }))).into_response();
    let needed = if request.method().is_safe() { Right::Look } else { Right::Control };
    match door.right(request.headers()) {
        None => refuse(StatusCode::UNAUTHORIZED, "A token is needed"),
        Some(right) if right < needed => {
            refuse(StatusCode::FORBIDDEN, "This takes a token for control (beamsplit serve --tokens)")
        }
        Some(right) => {
            request.extensions_mut().insert(right);
            next.run(request).await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderName;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    fn headers(of: &[(HeaderName, &str)]) -> HeaderMap {
        of.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect()
    }

    #[test]
    fn a_token_says_what_one_may_and_counts_no_more_once_it_is_taken_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens");
        let write = |text: &str| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        };
        write("control = ['aaaaaaaaaaaaaaaa']\nlook = ['bbbbbbbbbbbbbbbb']");
        let door = Door::new(Some(path.clone())).unwrap();
        let right = |token: &str| door.right(&headers(&[(header::AUTHORIZATION, &format!("Bearer {token}"))]));
        assert_eq!(right("aaaaaaaaaaaaaaaa"), Some(Right::Control));
        assert_eq!(right("bbbbbbbbbbbbbbbb"), Some(Right::Look));
        assert_eq!((right("cccccccccccccccc"), right(""), door.right(&HeaderMap::new())), (None, None, None));
        write("look = ['bbbbbbbbbbbbbbbb']");
        assert_eq!(right("aaaaaaaaaaaaaaaa"), None);
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        assert_eq!(right("bbbbbbbbbbbbbbbb"), None);
        assert!(Door::new(Some(path.clone())).unwrap_err().to_string().contains("chmod 600"));
        write("look = ['do-not-print']");
        let error = format!("{:#}", Door::new(Some(path)).unwrap_err());
        assert!(error.contains("16 to 256") && !error.contains("print"), "{error}");
    }

    #[test]
    fn without_tokens_one_only_looks() {
        assert_eq!(Door::new(None).unwrap().right(&HeaderMap::new()), Some(Right::Look));
    }

    #[test]
    fn the_network_is_not_let_in() {
        assert!(bind("0.0.0.0:0").unwrap_err().to_string().contains("SSH tunnel"));
        assert!(bind("example.org:80").is_err());
        assert!(bind("0").unwrap().local_addr().unwrap().ip().is_loopback());
    }
}
