//! VNC over TCP.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::sleep;
use tracing::debug;

use crate::client::{self, Choice, Entry};
use crate::hub::Hub;
use crate::log::{Lines, client_log};
use crate::wire;

/// Connections of the process, whatever they are. Stops thousands at once: those above are closed as soon as they come.
pub(crate) const MAX_CONNECTIONS: usize = 128;

/// Rest after the kernel had no descriptor for a connection.
const REST: Duration = Duration::from_millis(100);

/// Seconds of silence after which the kernel asks whether a peer still lives, then each time, and how often.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(60), Duration::from_secs(15), 4);

/// Milliseconds that bytes may wait for a peer to take them. Stops peers that stop reading and keep their place for ever.
const STUCK: u32 = 120_000;

/// Accepts for ever, never more than there is room for.
pub(crate) async fn accept(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
    lines: &Lines,
    mut start: impl FnMut(TcpStream, OwnedSemaphorePermit),
) -> io::Error {
    // Said once for each time that it gets full, not for each connection.
    let mut full = false;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => match room.clone().try_acquire_owned() {
                Ok(permit) => {
                    full = false;
                    if let Err(error) = prepare(&stream) {
                        debug!(%error, "A connection broke before it began");
                        continue;
                    }
                    start(stream, permit);
                }
                Err(_) if full => {}
                Err(_) => {
                    full = true;
                    client_log!(lines, warn, "{MAX_CONNECTIONS} connections are open: more are refused");
                }
            },
            Err(error) if is_passing(&error) => sleep(REST).await,
            Err(error) => return error,
        }
    }
}

fn is_passing(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let passing =
        [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOBUFS, Errno::CONNABORTED, Errno::PERM, Errno::PROTO];
    Errno::from_io_error(error).is_some_and(|errno| passing.contains(&errno))
}

/// Small messages go at once, and a peer that vanished is found out by the kernel, not by a timer of ours.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    let (idle, interval, probes) = KEEPALIVE;
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, idle)?;
    sockopt::set_tcp_keepintvl(stream, interval)?;
    sockopt::set_tcp_keepcnt(stream, probes)?;
    sockopt::set_tcp_user_timeout(stream, STUCK)?;
    Ok(())
}

/// Serves VNC on a listener for ever.
pub(crate) async fn serve(listener: TcpListener, head: u8, hub: Arc<Hub>, room: Arc<Semaphore>) -> io::Error {
    let choice = Choice { head, drawn_cursor: false };
    accept(&listener, &room, &hub.lines, |stream, permit| {
        let hub = hub.clone();
        tokio::spawn(async move {
            let peer = stream.peer_addr().map_or_else(|_| "?".into(), |peer| peer.to_string());
            client_log!(hub.lines, info, %peer, head, "VNC client");
            let (source, sink) = wire::tcp(stream);
            match client::serve(hub.clone(), source, sink, choice, Entry::Door(format!("VNC client {peer}"))).await {
                Ok(()) => client_log!(hub.lines, info, %peer, "VNC client left"),
                Err(end) => client_log!(hub.lines, info, %peer, "VNC client sent away: {end}"),
            }
            drop(permit);
        });
    })
    .await
}
