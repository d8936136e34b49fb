//! The bytes of a client, on a TCP connection or in a WebSocket.

use std::io;

use axum::extract::ws::{Message, WebSocket};
use bytes::{Bytes, BytesMut};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

/// Bytes taken at once. Stops a client that says much from filling our memory before it is understood.
const READ: usize = 4096;

/// Where a client's bytes come from.
pub(crate) enum Source {
    Tcp(OwnedReadHalf),
    Web(SplitStream<WebSocket>),
}

/// Where bytes for a client go.
pub(crate) enum Sink {
    Tcp(OwnedWriteHalf),
    Web(SplitSink<WebSocket, Message>),
}

/// Both directions of a TCP connection.
pub(crate) fn tcp(stream: TcpStream) -> (Source, Sink) {
    let (read, write) = stream.into_split();
    (Source::Tcp(read), Sink::Tcp(write))
}

/// Both directions of a WebSocket.
pub(crate) fn web(socket: WebSocket) -> (Source, Sink) {
    let (write, read) = socket.split();
    (Source::Web(read), Sink::Web(write))
}

impl Source {
    /// Appends what comes next. False: nothing comes any more.
    pub(crate) async fn read(&mut self, buffer: &mut BytesMut) -> io::Result<bool> {
        match self {
            Self::Tcp(stream) => {
                buffer.reserve(READ);
                let mut some = [0; READ];
                let read = stream.read(&mut some).await?;
                buffer.extend_from_slice(&some[..read]);
                Ok(read > 0)
            }
            Self::Web(stream) => loop {
                match stream.next().await {
                    Some(Ok(Message::Binary(bytes))) => {
                        buffer.extend_from_slice(&bytes);
                        return Ok(true);
                    }
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                    Some(Ok(Message::Text(_) | Message::Close(_))) | None => return Ok(false),
                    Some(Err(error)) => return Err(io::Error::other(error)),
                }
            },
        }
    }
}

impl Sink {
    /// Sends all of it and empties it.
    pub(crate) async fn send(&mut self, bytes: &mut Vec<u8>) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => {
                stream.write_all(bytes).await?;
                bytes.clear();
                Ok(())
            }
            Self::Web(sink) => {
                let bytes = Bytes::from(std::mem::take(bytes));
                sink.send(Message::Binary(bytes)).await.map_err(io::Error::other)
            }
        }
    }
}
