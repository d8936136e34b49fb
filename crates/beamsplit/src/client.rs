//! Asks a device over its control socket: one HTTP request, one answer, then the connection ends.

use std::io::{Error, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use httparse::{EMPTY_HEADER, Status};
use serde_json::Value;

/// How long a device may stay silent: it gives up on itself sooner.
const PATIENCE: Duration = Duration::from_secs(10);
/// The most headers of an answer.
const MAX_HEADERS: usize = 32;
/// The longest answer: a picture of the largest size.
const MAX_ANSWER: u64 = 2 << 30;

/// Asks with GET and returns the body of a good answer.
pub fn get(socket: &Path, target: &str) -> Result<Vec<u8>> {
    let mut stream = UnixStream::connect(socket).map_err(|error| why_not_connected(&error, socket))?;
    let told = || format!("The device at {} does not answer", socket.display());
    stream
        .set_read_timeout(Some(PATIENCE))
        .and_then(|()| stream.set_write_timeout(Some(PATIENCE)))
        .with_context(told)?;
    let request = format!("GET {target} HTTP/1.1\r\nHost: beamsplit\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).with_context(told)?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer).with_context(told)?;
    body(&answer)
}

fn why_not_connected(error: &Error, socket: &Path) -> anyhow::Error {
    let socket = socket.display();
    match error.kind() {
        ErrorKind::NotFound => anyhow::anyhow!("No socket {socket}: name the one of beamsplit device --control-socket"),
        ErrorKind::ConnectionRefused => anyhow::anyhow!("Nobody listens on {socket}: its device has ended"),
        ErrorKind::PermissionDenied => {
            anyhow::anyhow!("{socket} belongs to another user: ask as that user, or as root")
        }
        _ => anyhow::anyhow!("Cannot connect to {socket}: {error}"),
    }
}

/// The body of an answer; a refusal becomes an error in the device's words.
fn body(answer: &[u8]) -> Result<Vec<u8>> {
    let mut headers = [EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let Ok(Status::Complete(head)) = response.parse(answer) else { bail!("The answer is no HTTP") };
    let body = &answer[head..];
    let length = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let length = length.and_then(|header| std::str::from_utf8(header.value).ok()?.parse().ok());
    if length != Some(body.len()) {
        bail!("The answer was cut off");
    }
    match response.code {
        Some(200) => Ok(body.to_vec()),
        code => {
            let told: Option<Value> = serde_json::from_slice(body).ok();
            let why = told.as_ref().and_then(|value| value["error"].as_str());
            bail!("{}", why.unwrap_or(&format!("The device answered {}", code.unwrap_or(0))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn a_good_answer_is_its_body() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Length: 3\r\n\r\npng";
        assert_eq!(body(answer).unwrap(), b"png");
    }

    #[test]
    fn a_refusal_is_told_in_the_devices_words() {
        let answer = b"HTTP/1.1 404 Not Found\r\nContent-Length: 16\r\n\r\n{\"error\":\"Dark\"}";
        assert_eq!(body(answer).unwrap_err().to_string(), "Dark");
        let answer = b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n";
        assert!(body(answer).unwrap_err().to_string().contains("503"));
    }

    #[test]
    fn half_an_answer_is_none() {
        for answer in [
            &b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npng"[..],
            b"HTTP/1.1 200 OK\r\n\r\npng",
            b"HTTP",
            b"",
            b"png",
        ] {
            assert!(body(answer).is_err(), "{}", answer.escape_ascii());
        }
    }

    #[test]
    fn a_socket_that_leads_nowhere_is_explained() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.sock");
        assert!(get(&path, "/").unwrap_err().to_string().contains("--control-socket"));
        drop(UnixListener::bind(&path).unwrap());
        assert!(get(&path, "/").unwrap_err().to_string().contains("has ended"));
    }

    #[test]
    fn the_request_reaches_the_device() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let device = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = vec![0; 1024];
            let length = stream.read(&mut request).unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
            String::from_utf8(request[..length].to_vec()).unwrap()
        });
        assert_eq!(get(&path, "/v1/stats").unwrap(), b"ok");
        assert!(device.join().unwrap().starts_with("GET /v1/stats HTTP/1.1\r\n"));
    }
}
