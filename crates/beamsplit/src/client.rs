//! Asks over a Unix socket: one HTTP request, one answer, then the connection ends. So a device is asked over its control
//! socket, and the manager.

use std::io::{Error, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use httparse::{EMPTY_HEADER, Status};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};
use serde_json::Value;

use crate::folders;
use crate::table::printable;

/// How long a device may stay silent: it gives up on itself sooner.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the manager may: it waits for devices that start and stop.
const MANAGERS_PATIENCE: Duration = Duration::from_secs(90);
/// The most headers of an answer.
const MAX_HEADERS: usize = 32;
/// The longest answer: a picture of the largest size.
const MAX_ANSWER: u64 = 2 << 30;

/// A device refused: it answered, and said no.
#[derive(Debug, thiserror::Error)]
#[error("{why}")]
pub struct Refused {
    /// As in HTTP: 404, 409, ...
    pub status: u16,
    /// In words.
    pub why: String,
}

/// Asks a device with GET and returns the body of a good answer.
pub fn get(socket: &Path, target: &str) -> Result<Vec<u8>> {
    let stream = connect(socket, PATIENCE).map_err(|error| why_not_connected(&error, socket))?;
    exchange(stream, PATIENCE, "GET", target, None).map_err(|error| {
        if error.is::<Refused>() {
            error
        } else {
            error.context(format!("The device at {} does not answer", socket.display()))
        }
    })
}

/// Which manager a command asks.
#[derive(Debug, Clone, clap::Args)]
pub struct Manager {
    /// The runtime folder of the manager to ask [default: /run/beamsplit for root, else the user's own manager if one runs,
    /// else the host's].
    #[arg(long, value_name = "DIR")]
    runtime_dir: Option<PathBuf>,
}

impl Manager {
    /// Asks and returns the answer.
    pub fn ask(&self, method: &str, target: &str, body: Option<&Value>) -> Result<Value> {
        let body = body.map(|body| body.to_string().into_bytes());
        let answer = self.bytes(method, target, body.as_deref())?;
        serde_json::from_slice(&answer).context("The manager's answer is no JSON")
    }

    /// Asks with GET.
    pub fn get(&self, target: &str) -> Result<Value> {
        self.ask("GET", target, None)
    }

    /// Asks and returns the body of a good answer.
    pub fn bytes(&self, method: &str, target: &str, body: Option<&[u8]>) -> Result<Vec<u8>> {
        let socket = folders::managers_socket(self.runtime_dir.as_deref());
        let stream = connect(&socket, MANAGERS_PATIENCE).map_err(|error| match error.kind() {
            ErrorKind::WouldBlock => anyhow::anyhow!("The manager does not answer: it accepts no connection"),
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => anyhow::anyhow!(
                "No manager listens on {}: start it with 'beamsplit serve', or 'systemctl start beamsplit'",
                socket.display()
            ),
            ErrorKind::PermissionDenied if socket == folders::hosts_socket() => anyhow::anyhow!(
                "{} is for root and the group beamsplit: join it with 'sudo usermod -aG beamsplit $USER' and log in again",
                socket.display()
            ),
            ErrorKind::PermissionDenied => anyhow::anyhow!(
                "{} is for another user and the group beamsplit: ask as that user, or as root",
                socket.display()
            ),
            _ => anyhow::anyhow!("Cannot connect to {}: {error}", socket.display()),
        })?;
        exchange(stream, MANAGERS_PATIENCE, method, target, body)
            .map_err(|error| if error.is::<Refused>() { error } else { error.context("The manager does not answer") })
    }
}

/// Connects, unless whoever listens there has not accepted those who came before us after so long.
pub fn connect(path: &Path, patience: Duration) -> Result<UnixStream, Error> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // The kernel waits for room in the queue no longer than it would for room in a connection.
    set_socket_timeout(&socket, Timeout::Send, Some(patience))?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket.into())
}

/// Text as a part of a path of a request.
pub fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => escaped.push(byte.into()),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

fn exchange(
    mut stream: UnixStream,
    patience: Duration,
    method: &str,
    target: &str,
    body: Option<&[u8]>,
) -> Result<Vec<u8>> {
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    let mut request = format!("{method} {target} HTTP/1.1\r\nHost: beamsplit\r\nConnection: close\r\n");
    if let Some(body) = body {
        request.push_str(&format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len()));
    }
    request.push_str("\r\n");
    let mut request = request.into_bytes();
    request.extend_from_slice(body.unwrap_or_default());
    let written = stream.write_all(&request);
    let mut answer = Vec::new();
    // Who does not want the whole request may say why before it ends.
    let read = stream.take(MAX_ANSWER).read_to_end(&mut answer);
    if answer.is_empty() {
        let why = written.and(read).err();
        let late = |error: &Error| matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
        match why {
            None => bail!("it hung up"),
            Some(error) if late(&error) => bail!("it said nothing for {} seconds", patience.as_secs()),
            Some(error) => return Err(error.into()),
        }
    }
    self::body(answer)
}

fn why_not_connected(error: &Error, socket: &Path) -> anyhow::Error {
    let socket = socket.display();
    match error.kind() {
        ErrorKind::NotFound => anyhow::anyhow!("No socket {socket}: name the one of beamsplit device --control-socket"),
        ErrorKind::ConnectionRefused => anyhow::anyhow!("Nobody listens on {socket}: its device has ended"),
        ErrorKind::WouldBlock => anyhow::anyhow!("The device at {socket} does not answer: it accepts no connection"),
        ErrorKind::PermissionDenied => {
            anyhow::anyhow!("{socket} belongs to another user: ask as that user, or as root")
        }
        _ => anyhow::anyhow!("Cannot connect to {socket}: {error}"),
    }
}

/// The status and the body of an answer.
pub fn parse(mut answer: Vec<u8>) -> Result<(u16, Vec<u8>)> {
    let mut headers = [EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let Ok(Status::Complete(head)) = response.parse(&answer) else { bail!("The answer is no HTTP") };
    let length = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let length = length.and_then(|header| std::str::from_utf8(header.value).ok()?.parse().ok());
    if length != Some(answer.len() - head) {
        bail!("The answer was cut off");
    }
    let status = response.code.unwrap_or(0);
    // Pictures are large: the body stays where it is.
    answer.drain(..head);
    Ok((status, answer))
}

/// The body of an answer; a refusal becomes an error in the words of who refuses.
fn body(answer: Vec<u8>) -> Result<Vec<u8>> {
    match parse(answer)? {
        (200..=299, body) => Ok(body),
        (status, body) => {
            let told: Option<Value> = serde_json::from_slice(&body).ok();
            let why = told.as_ref().and_then(|value| value["error"].as_str());
            let why = why.map_or_else(|| format!("The answer was {status}"), printable);
            Err(Refused { status, why }.into())
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
        assert_eq!(body(answer.to_vec()).unwrap(), b"png");
    }

    #[test]
    fn a_refusal_is_told_in_the_devices_words() {
        let answer = b"HTTP/1.1 404 Not Found\r\nContent-Length: 16\r\n\r\n{\"error\":\"Dark\"}";
        assert_eq!(body(answer.to_vec()).unwrap_err().to_string(), "Dark");
        let answer = b"HTTP/1.1 404 Not Found\r\nContent-Length: 25\r\n\r\n{\"error\":\"\\u001b[2JDark\"}";
        assert_eq!(body(answer.to_vec()).unwrap_err().to_string(), "?[2JDark", "it must not reach the terminal");
        let answer = b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n";
        assert!(body(answer.to_vec()).unwrap_err().to_string().contains("503"));
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
            assert!(body(answer.to_vec()).is_err(), "{}", answer.escape_ascii());
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
    fn who_accepts_nobody_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.sock");
        let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
        rustix::net::bind(&socket, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        rustix::net::listen(&socket, 0).unwrap();
        let mut crowd = Vec::new();
        let error = loop {
            match connect(&path, Duration::from_millis(1)) {
                Ok(stream) => crowd.push(stream),
                Err(error) => break error,
            }
        };
        assert_eq!((error.kind(), crowd.len()), (ErrorKind::WouldBlock, 1));
        let told = why_not_connected(&error, &path).to_string();
        assert!(told.contains("accepts no connection"), "{told}");
        rustix::net::accept(&socket).unwrap();
        connect(&path, PATIENCE).unwrap();
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
