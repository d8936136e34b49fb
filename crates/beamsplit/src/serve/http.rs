//! Connections: who is let in, how many at once, and for how long. One request each.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::{sleep, timeout};

use super::socket::{self, Peer};

/// Connections at once, of all users. Stops one who opens thousands.
const CLIENTS: usize = 128;
/// Connections at once of one user other than root and ours. Stops one member of the group from keeping the others out.
const CLIENTS_OF_ONE: usize = 64;
/// Bytes of a request's head; ours have 200. Stops one that never ends.
const MAX_HEAD: usize = 16 << 10;
/// Bytes of a request's body: a declared set of a thousand vGPUs has a tenth of it.
pub const MAX_BODY: usize = 1 << 20;
/// How long the head of a request may take. Stops a client that says nothing.
const HEAD: Duration = Duration::from_secs(5);
/// How long a connection may last: as long as a device may take to start, and one that never reads its answer no longer.
const LIFE: Duration = Duration::from_secs(85);
/// How long one who is not let in has to hear so.
const REFUSAL: Duration = Duration::from_secs(1);
/// How long nobody is accepted after that failed: it would at once again.
const REST: Duration = Duration::from_millis(100);

/// How many connections each user has.
#[derive(Debug, Clone, Default)]
struct Room(Arc<Mutex<HashMap<u32, usize>>>);

/// A place among the connections, until it is dropped.
struct Place {
    room: Room,
    uid: u32,
}

impl Room {
    fn enter(&self, uid: u32) -> Option<Place> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = taken.values().sum();
        let own = taken.entry(uid).or_default();
        let owns = uid == 0 || uid == rustix::process::geteuid().as_raw();
        let most = if owns { CLIENTS } else { CLIENTS_OF_ONE };
        if all >= CLIENTS || *own >= most {
            return None;
        }
        *own += 1;
        Some(Place { room: self.clone(), uid })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.room.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.uid) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.uid);
            }
        }
    }
}

/// Serves for ever.
pub async fn serve(listener: UnixListener, router: Router) {
    let room = Room::default();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!("Cannot accept a connection: {error}");
                sleep(REST).await;
                continue;
            }
        };
        let Ok(peer) = socket::peer(&stream) else { continue };
        let place = room.enter(peer.uid);
        match place {
            // Nothing is kept of one who does not find a place, not even a task that waits for it.
            None => drop(stream.try_write(&refusal("503 Service Unavailable", "Too many connections: ask again"))),
            Some(place) if peer.may_ask() => {
                let service = TowerToHyperService::new(router.clone());
                tokio::spawn(async move {
                    let mut builder = hyper::server::conn::http1::Builder::new();
                    builder.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(MAX_HEAD).keep_alive(false);
                    let served = timeout(LIFE, builder.serve_connection(TokioIo::new(stream), service)).await;
                    if let Ok(Err(error)) = served {
                        tracing::debug!("A connection broke: {error}");
                    }
                    drop(place);
                });
            }
            Some(place) => drop(tokio::spawn(async move {
                let _ = timeout(REFUSAL, refuse(stream, peer)).await;
                drop(place);
            })),
        }
    }
}

/// Says no to one who may not ask.
async fn refuse(mut stream: UnixStream, peer: Peer) -> std::io::Result<()> {
    let user = socket::user_name(peer.uid);
    let why = format!("The manager answers root, its own user and the group beamsplit; this is user {user}");
    stream.write_all(&refusal("403 Forbidden", &why)).await?;
    stream.shutdown().await?;
    // What it says is read to its end: else it would see a broken connection instead of the answer.
    let mut scrap = [0; 4096];
    while stream.read(&mut scrap).await? > 0 {}
    Ok(())
}

fn refusal(status: &str, why: &str) -> Vec<u8> {
    let body = serde_json::json!({ "version": super::routes::VERSION, "error": why }).to_string();
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}")
        .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nobody runs tests as this user.
    const STRANGER: u32 = 1_000_000;

    #[test]
    fn one_user_cannot_take_all_places() {
        let room = Room::default();
        let taken: Vec<_> = std::iter::from_fn(|| room.enter(STRANGER)).collect();
        assert_eq!(taken.len(), CLIENTS_OF_ONE);
        let roots: Vec<_> = std::iter::from_fn(|| room.enter(0)).collect();
        assert_eq!(roots.len(), CLIENTS - CLIENTS_OF_ONE);
        drop((taken, roots));
        assert!(room.0.lock().unwrap().is_empty());
    }
}
