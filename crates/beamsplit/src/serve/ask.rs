//! Asks a device over its control socket, without waiting for others.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::client;

/// How long a device may take: it gives up on itself after five seconds.
const PATIENCE: Duration = Duration::from_secs(6);
/// The longest answer that is passed on: a picture of 8192x8192.
const MAX_PICTURE: u64 = 256 << 20;
/// The longest answer that is read: far more than a device has to tell. Any user of the host may be at the other end.
const MAX_JSON: u64 = 1 << 20;

/// What a device said.
#[derive(Debug)]
pub struct Answer {
    /// As in HTTP.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
}

/// Why it said nothing.
#[derive(Debug, thiserror::Error)]
pub enum Silent {
    /// It cannot be reached, or hung up.
    #[error("The device does not answer: {0}")]
    Io(#[from] std::io::Error),
    /// It takes too long.
    #[error("The device does not answer in time")]
    Late,
    /// It said what is no answer.
    #[error("The device's answer makes no sense")]
    Garbage,
}

/// Asks the one that listens on `socket` for a picture.
pub async fn picture(socket: &Path, target: &str) -> Result<Answer, Silent> {
    within(async { exchange(UnixStream::connect(socket).await?, target, MAX_PICTURE).await }).await
}

/// The statistics of the one that listens on `socket`.
pub async fn stats(socket: &Path) -> Result<Value, Silent> {
    within(async { told(UnixStream::connect(socket).await?).await }).await
}

/// The statistics of the one at the other end.
pub async fn stats_over(stream: UnixStream) -> Result<Value, Silent> {
    within(told(stream)).await
}

async fn told(stream: UnixStream) -> Result<Value, Silent> {
    let answer = exchange(stream, "/v1/stats", MAX_JSON).await?;
    serde_json::from_slice(&answer.body).map_err(|_| Silent::Garbage)
}

async fn within<T>(asking: impl Future<Output = Result<T, Silent>>) -> Result<T, Silent> {
    tokio::time::timeout(PATIENCE, asking).await.unwrap_or(Err(Silent::Late))
}

async fn exchange(mut stream: UnixStream, target: &str, most: u64) -> Result<Answer, Silent> {
    let request = format!("GET {target} HTTP/1.1\r\nHost: device\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(most).read_to_end(&mut answer).await?;
    let (status, body) = client::parse(answer).map_err(|_| Silent::Garbage)?;
    Ok(Answer { status, body })
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
