//! A browser's connections without a browser: requests, WebSockets, a page.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};

use serde_json::{Value, json};
use tungstenite::client::IntoClientRequest;
use tungstenite::handshake::HandshakeError;
use tungstenite::http::StatusCode;
use tungstenite::{Error, Message, WebSocket};

use super::{Client, PATIENCE, Stage};

/// A WebSocket as a stream of bytes.
pub struct Stream {
    pub socket: WebSocket<TcpStream>,
    rest: Vec<u8>,
}

impl Read for Stream {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            match self.socket.read().map_err(io::Error::other)? {
                Message::Binary(data) => self.rest = data.into(),
                other => panic!("{other:?}"),
            }
        }
        let length = bytes.len().min(self.rest.len());
        bytes[..length].copy_from_slice(&self.rest[..length]);
        self.rest.drain(..length);
        Ok(length)
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.send(Message::Binary(bytes.to_vec().into())).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Upgrades, or says the status that refused.
pub fn open(address: SocketAddr, path: &str, headers: &[(&'static str, &str)]) -> Result<Stream, StatusCode> {
    let mut request = format!("ws://{address}{path}").into_client_request().unwrap();
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    match tungstenite::client(request, TcpStream::connect(address).unwrap()) {
        Ok((socket, _)) => Ok(Stream { socket, rest: Vec::new() }),
        Err(HandshakeError::Failure(Error::Http(answer))) => Err(answer.status()),
        Err(error) => panic!("{error}"),
    }
}

/// A plain request: status, head and body.
pub fn get(address: SocketAddr, path: &str, host: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head[9..12].parse().unwrap(), head.to_ascii_lowercase(), body.to_owned())
}

/// A page: its control WebSocket, after it was let in.
pub struct Page {
    address: SocketAddr,
    pub stream: Stream,
    pub seat: Value,
    /// What it was told last of who controls.
    pub floor: Value,
    pub ticket: String,
}

impl Page {
    /// Comes without a token.
    pub fn open(stage: &Stage) -> Self {
        Self::enter(stage, &json!({})).unwrap()
    }

    /// Says hello; or what it is told when it is sent away.
    pub fn enter(stage: &Stage, hello: &Value) -> Result<Self, Value> {
        let origin = format!("http://{}", stage.web);
        let stream = open(stage.web, "/control", &[("origin", &origin)]).unwrap();
        stream.socket.get_ref().set_read_timeout(Some(PATIENCE)).unwrap();
        let (seat, floor, ticket) = (Value::Null, Value::Null, String::new());
        let mut page = Self { address: stage.web, stream, seat, floor, ticket };
        page.say(hello);
        let told = page.told().expect("an answer");
        if told["is"] != "seat" {
            return Err(told);
        }
        page.seat = told;
        page.ticket = page.news("ticket")["ticket"].as_str().unwrap().to_owned();
        Ok(page)
    }

    pub fn say(&mut self, what: &Value) {
        self.stream.socket.send(Message::text(what.to_string())).unwrap();
    }

    /// The next message; none: the connection ended.
    pub fn told(&mut self) -> Option<Value> {
        loop {
            match self.stream.socket.read() {
                Ok(Message::Text(text)) => {
                    let told: Value = serde_json::from_str(text.as_str()).unwrap();
                    if told["is"] == "floor" {
                        self.floor = told.clone();
                    }
                    return Some(told);
                }
                Ok(Message::Close(_)) => return None,
                Ok(_) => {}
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => panic!("nothing was told"),
                Err(_) => return None,
            }
        }
    }

    /// The next message of a kind.
    pub fn news(&mut self, is: &str) -> Value {
        loop {
            let told = self.told().expect("news");
            if told["is"] == is {
                return told;
            }
        }
    }

    /// Waits until who controls is so.
    pub fn until(&mut self, is: impl Fn(&Value) -> bool) {
        while !is(&self.floor) {
            self.news("floor");
        }
    }

    pub fn is_in_control(&self, floor: &Value) -> bool {
        floor["holder"] == self.seat["seat"]
    }

    pub fn take(&mut self) {
        self.say(&json!({"do": "take"}));
        let seat = self.seat["seat"].clone();
        self.until(|floor| floor["holder"] == seat);
    }

    /// All that was said before is understood.
    pub fn sync(&mut self) {
        self.say(&json!({"do": "tell"}));
        self.news("vm");
    }

    /// Uses its ticket.
    pub fn screen(&self) -> Result<Client<Stream>, StatusCode> {
        self.screen_with("")
    }

    /// Uses its ticket and asks for something else too.
    pub fn screen_with(&self, more: &str) -> Result<Client<Stream>, StatusCode> {
        open(self.address, &format!("/screen?ticket={}{more}", self.ticket), &[]).map(Client::greet)
    }
}
