//! Asks a device over its control socket, without waiting for others.

use std::path::Path;
use std::time::Duration;

use httparse::{EMPTY_HEADER, Status};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// How long a device may take: it gives up on itself after five seconds.
const PATIENCE: Duration = Duration::from_secs(6);
/// The longest answer that is passed on: a picture of 8192x8192.
const MAX_ANSWER: u64 = 256 << 20;
/// The most headers of an answer.
const MAX_HEADERS: usize = 32;

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

/// Asks the one that listens on `socket` with GET.
pub async fn get(socket: &Path, target: &str) -> Result<Answer, Silent> {
    within(async {
        let stream = UnixStream::connect(socket).await?;
        exchange(stream, target).await
    })
    .await
}

/// Asks the one at the other end for JSON.
pub async fn json(stream: UnixStream, target: &str) -> Result<Value, Silent> {
    let answer = within(exchange(stream, target)).await?;
    serde_json::from_slice(&answer.body).map_err(|_| Silent::Garbage)
}

/// The statistics of the one that listens on `socket`.
pub async fn stats(socket: &Path) -> Result<Value, Silent> {
    let answer = get(socket, "/v1/stats").await?;
    serde_json::from_slice(&answer.body).map_err(|_| Silent::Garbage)
}

async fn within<T>(asking: impl Future<Output = Result<T, Silent>>) -> Result<T, Silent> {
    tokio::time::timeout(PATIENCE, asking).await.unwrap_or(Err(Silent::Late))
}

async fn exchange(mut stream: UnixStream, target: &str) -> Result<Answer, Silent> {
    let request = format!("GET {target} HTTP/1.1\r\nHost: device\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer).await?;
    parse(&answer)
}

fn parse(answer: &[u8]) -> Result<Answer, Silent> {
    let mut headers = [EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let Ok(Status::Complete(head)) = response.parse(answer) else { return Err(Silent::Garbage) };
    let length = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let length = length.and_then(|header| std::str::from_utf8(header.value).ok()?.parse::<usize>().ok());
    let body = answer[head..].to_vec();
    if length != Some(body.len()) {
        return Err(Silent::Garbage);
    }
    Ok(Answer { status: response.code.unwrap_or(0), body })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_an_answer_is_none() {
        let whole = b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}";
        assert_eq!(parse(whole).unwrap().status, 404);
        for end in 0..whole.len() {
            assert!(parse(&whole[..end]).is_err(), "{end}");
        }
    }
}
