//! A page without a browser: its two WebSockets, one for who it is and who controls, one for the screen.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};

use tungstenite::client::IntoClientRequest;
use tungstenite::{Bytes, Message, WebSocket};

use crate::error::{Doing, Error, Result};
use crate::rfb::Client;

/// A WebSocket as a stream of bytes.
#[derive(Debug)]
pub struct Stream {
    socket: WebSocket<TcpStream>,
    rest: Bytes,
}

impl Stream {
    fn open(address: SocketAddr, path: &str) -> Result<Self> {
        let refused = |error: &dyn std::fmt::Display| Error::NotDone(format!("The page's {path}: {error}"));
        let stream = TcpStream::connect(address).doing("connect to the page")?;
        stream.set_nodelay(true).doing("set up a connection")?;
        let mut request = format!("ws://{address}{path}").into_client_request().map_err(|error| refused(&error))?;
        let origin = format!("http://{address}").parse().map_err(|error| refused(&error))?;
        request.headers_mut().insert("origin", origin);
        let (socket, _) = tungstenite::client(request, stream).map_err(|error| refused(&error))?;
        Ok(Self { socket, rest: Bytes::new() })
    }

    /// The connection below.
    pub fn connection(&self) -> &TcpStream {
        self.socket.get_ref()
    }

    fn next(&mut self) -> io::Result<Message> {
        self.socket.read().map_err(io::Error::other)
    }
}

impl Read for Stream {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            match self.next()? {
                Message::Binary(bytes) => self.rest = bytes,
                Message::Close(_) => return Ok(0),
                _ => {}
            }
        }
        let some = self.rest.split_to(self.rest.len().min(bytes.len()));
        bytes[..some.len()].copy_from_slice(&some);
        Ok(some.len())
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.send(Message::Binary(Bytes::copy_from_slice(bytes))).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A page that was let in.
#[derive(Debug)]
pub struct Page {
    /// Who it is, and who controls.
    pub control: Stream,
    /// The screen, and what is typed.
    pub screen: Client<Stream>,
}

impl Page {
    /// Does what the page does that a browser loads.
    pub fn open(address: SocketAddr, encodings: &[i32]) -> Result<Self> {
        let mut control = Stream::open(address, "/control")?;
        control.socket.send(Message::text("{}")).map_err(io::Error::other).doing("write to the page")?;
        let ticket = loop {
            let Message::Text(text) = control.next().doing("read from the page")? else { continue };
            let told: serde_json::Value =
                serde_json::from_str(&text).map_err(io::Error::other).doing("understand the page")?;
            match (told["is"].as_str(), told["ticket"].as_str()) {
                (Some("ticket"), Some(ticket)) => break ticket.to_owned(),
                (Some("refused"), _) => return Err(Error::NotDone("The page is not let in".into())),
                _ => {}
            }
        };
        let screen = Stream::open(address, &format!("/screen?ticket={ticket}"))?;
        Ok(Self { control, screen: Client::greet(screen, encodings)? })
    }
}
