//! Asks a device over its control socket, without waiting for others.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::socket;
use crate::client;

/// How long a device may take: it gives up on itself after five seconds.
const PATIENCE: Duration = Duration::from_secs(6);
/// The longest answer that is passed on: a picture of 8192x8192.
const MAX_PICTURE: u64 = 256 << 20;
/// Bytes of all pictures that are on their way: two of the largest. Stops clients who ask for many and read none.
const PICTURES: usize = 2 * MAX_PICTURE as usize;
/// The longest answer that is read: far more than a device has to tell. Any user of the host may be at the other end.
const MAX_JSON: u64 = 256 << 10;
/// What there is room for at first; it is doubled as long as more comes.
const FIRST: usize = 16 << 10;

/// Room for pictures that are on their way from devices to who asked for them.
#[derive(Debug, Clone)]
pub struct Room(Arc<Semaphore>);

impl Default for Room {
    fn default() -> Self {
        Room(Arc::new(Semaphore::new(PICTURES)))
    }
}

impl Room {
    /// Takes so many bytes of it, if they are there: nobody waits, who gives them back may take his time.
    fn take(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Silent> {
        let bytes = u32::try_from(bytes).map_err(|_| Silent::NoRoom)?;
        self.0.clone().try_acquire_many_owned(bytes).map_err(|_| Silent::NoRoom)
    }
}

/// What a device said.
#[derive(Debug)]
pub struct Answer {
    /// As in HTTP.
    pub status: u16,
    /// The body. It takes room until all of it is dropped.
    pub body: Bytes,
}

/// Bytes, and the room that they take.
struct Held {
    bytes: Vec<u8>,
    room: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Why it said nothing.
#[derive(Debug, thiserror::Error)]
pub enum Silent {
    /// It cannot be reached, or hung up.
    #[error("The device does not answer: {0}")]
    Io(#[from] std::io::Error),
    /// It is not the one that was meant.
    #[error("Another process listens in the device's place")]
    Another,
    /// It takes too long.
    #[error("The device does not answer in time")]
    Late,
    /// It said what is no answer.
    #[error("The device's answer makes no sense")]
    Garbage,
    /// Too much is on its way to others.
    #[error("Too many pictures are on their way to others: ask again")]
    NoRoom,
}

/// Asks the process `pid`, which listens on `socket`, for a picture.
pub async fn picture(socket: &Path, pid: i32, target: &str, room: &Room) -> Result<Answer, Silent> {
    within(async {
        let mut stream = connect(socket, pid)?;
        say(&mut stream, target).await?;
        let Held { bytes, room } = read(stream, room).await?;
        let (status, bytes) = client::parse(bytes).map_err(|_| Silent::Garbage)?;
        Ok(Answer { status, body: Bytes::from_owner(Held { bytes, room }) })
    })
    .await
}

/// The statistics of the process `pid`, which listens on `socket`.
pub async fn stats(socket: &Path, pid: i32) -> Result<Value, Silent> {
    within(async { told(connect(socket, pid)?).await }).await
}

/// Connects to a process, and to no other: a device can put something else in the place of its own socket, and whoever asks it
/// would hear what only the manager may.
fn connect(socket: &Path, pid: i32) -> Result<UnixStream, Silent> {
    let stream = UnixStream::from_std(socket::connect(socket, None)?)?;
    if is(&stream, pid) { Ok(stream) } else { Err(Silent::Another) }
}

/// Whether it is this process that listens at the other end: the kernel says so, whatever it says itself.
pub fn is(stream: &UnixStream, pid: i32) -> bool {
    stream.peer_cred().is_ok_and(|peer| peer.pid() == Some(pid))
}

/// The statistics of the one at the other end.
pub async fn stats_over(stream: UnixStream) -> Result<Value, Silent> {
    within(told(stream)).await
}

async fn told(mut stream: UnixStream) -> Result<Value, Silent> {
    say(&mut stream, "/v1/stats").await?;
    let mut answer = Vec::new();
    stream.take(MAX_JSON).read_to_end(&mut answer).await?;
    let (_, body) = client::parse(answer).map_err(|_| Silent::Garbage)?;
    serde_json::from_slice(&body).map_err(|_| Silent::Garbage)
}

async fn within<T>(asking: impl Future<Output = Result<T, Silent>>) -> Result<T, Silent> {
    tokio::time::timeout(PATIENCE, asking).await.unwrap_or(Err(Silent::Late))
}

async fn say(stream: &mut UnixStream, target: &str) -> Result<(), Silent> {
    let request = format!("GET {target} HTTP/1.1\r\nHost: device\r\nConnection: close\r\n\r\n");
    Ok(stream.write_all(request.as_bytes()).await?)
}

/// All that is said, where there is room for it. It is taken before the bytes come: who sends them may be hostile.
async fn read(stream: UnixStream, room: &Room) -> Result<Held, Silent> {
    let mut held = Held { bytes: Vec::with_capacity(FIRST), room: room.take(FIRST)? };
    let mut stream = stream.take(MAX_PICTURE);
    while stream.read_buf(&mut held.bytes).await? > 0 {
        let there = held.bytes.capacity();
        if held.bytes.len() == there {
            held.room.merge(room.take(there)?);
            held.bytes.reserve_exact(there);
        }
    }
    Ok(held)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_listens_in_the_place_of_another_is_not_asked() {
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path().join("own");
        let listener = tokio::net::UnixListener::bind(&own).unwrap();
        let pid = std::process::id().cast_signed();
        assert!(matches!(stats(&own, pid + 1).await, Err(Silent::Another)));
        let (mut heard, _) = listener.accept().await.unwrap();
        assert_eq!(heard.read(&mut [0; 16]).await.unwrap(), 0, "it heard something");
        assert!(connect(&own, pid).is_ok());
    }

    #[tokio::test]
    async fn whoever_answers_without_an_end_is_read_no_further_than_there_is_to_tell() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let flood = tokio::spawn(async move {
            far.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            let mut said = 0;
            while let Ok(length) = far.write(&[b' '; 64 << 10]).await {
                said += length as u64;
            }
            said
        });
        assert!(matches!(stats_over(near).await, Err(Silent::Garbage)));
        // What was not read lies in the socket.
        assert!(flood.await.unwrap() < 2 * MAX_JSON);
    }

    /// A device that answers with so many bytes, again and again.
    fn device(folder: &Path, bytes: usize) -> std::path::PathBuf {
        let path = folder.join("control.sock");
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 256];
                let _ = stream.read(&mut request).await;
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {bytes}\r\n\r\n");
                let _ = stream.write_all(head.as_bytes()).await;
                let _ = stream.write_all(&vec![7; bytes]).await;
            }
        });
        path
    }

    #[tokio::test]
    async fn pictures_that_nobody_reads_have_a_bound_together_and_give_their_room_back() {
        const ALL: usize = 2 << 20;
        let folder = tempfile::tempdir().unwrap();
        let bytes = 300_000;
        let path = device(folder.path(), bytes);
        let own = std::process::id().cast_signed();
        let room = Room(Arc::new(Semaphore::new(ALL)));
        let ask = || picture(&path, own, "/v1/screenshot", &room);
        let mut kept = Vec::new();
        let refused = loop {
            match ask().await {
                Ok(answer) => kept.push(answer),
                Err(refused) => break refused,
            }
        };
        assert!(matches!(refused, Silent::NoRoom), "{refused}");
        assert!(kept.len() >= 3 && kept.len() * bytes <= ALL, "{}", kept.len());
        assert!(kept.iter().all(|answer| answer.status == 200 && answer.body.len() == bytes));
        // A part of one that is still on its way keeps it all.
        let part = kept.pop().unwrap().body.slice(..10);
        assert!(ask().await.is_err());
        drop(part);
        ask().await.unwrap();
        kept.clear();
        assert_eq!(room.0.available_permits(), ALL);
    }
}
