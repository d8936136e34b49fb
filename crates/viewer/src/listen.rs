//! Where people connect: addresses, sockets that somebody else opened, and who may reach them.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::os::fd::{OwnedFd, RawFd};
use std::str::FromStr;

use rustix::net::{AddressFamily, SocketType, sockopt};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

/// Why nobody can connect.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The address is none.
    #[error("{0:?} is no address: use PORT, HOST:PORT or [IPV6]:PORT, and perhaps ,head=N")]
    Address(String),
    /// Anybody on the network could look.
    #[error(
        "{0} would show the screen to the network without a password: listen on 127.0.0.1 and use a tunnel (ssh -L)"
    )]
    Open(SocketAddr),
    /// The kernel refused.
    #[error("Cannot listen on {address}")]
    Bind {
        /// The address.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// An inherited fd is no listening socket.
    #[error("File descriptor {fd} is no TCP socket to listen on")]
    Fd {
        /// Its number.
        fd: RawFd,
        /// Why.
        source: std::io::Error,
    },
}

/// Where to listen, and which head is shown there: `5900`, `127.0.0.1:5900`, `localhost:0,head=1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenAddress {
    host: String,
    port: u16,
    head: u8,
}

impl FromStr for ListenAddress {
    type Err = ListenError;

    fn from_str(text: &str) -> Result<Self, ListenError> {
        let refused = || ListenError::Address(text.to_owned());
        let (address, head) = match text.split_once(',') {
            Some((address, option)) => {
                let head = option.strip_prefix("head=").and_then(|head| head.parse().ok());
                (address, head.filter(|head| usize::from(*head) < frames::MAX_HEADS).ok_or_else(refused)?)
            }
            None => (text, 0),
        };
        let (host, port) = address.rsplit_once(':').unwrap_or(("", address));
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let host = if host.is_empty() { "127.0.0.1" } else { host };
        Ok(Self { host: host.to_owned(), port: port.parse().map_err(|_| refused())?, head })
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl ListenAddress {
    /// Opens the socket. Only addresses of this host itself are possible, because there is no password.
    pub fn bind(&self) -> Result<Listening, ListenError> {
        let failed = |source| ListenError::Bind { address: self.to_string(), source };
        let addresses: Vec<_> = (self.host.as_str(), self.port).to_socket_addrs().map_err(failed)?.collect();
        if let Some(open) = addresses.iter().find(|address| !address.ip().is_loopback()) {
            return Err(ListenError::Open(*open));
        }
        let socket = TcpListener::bind(&addresses[..]).map_err(failed)?;
        Ok(Listening { socket, head: self.head })
    }
}

/// A socket that somebody else opened and goes on holding: `7`, `7,head=1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenFd {
    fd: RawFd,
    head: u8,
}

impl FromStr for ListenFd {
    type Err = ListenError;

    fn from_str(text: &str) -> Result<Self, ListenError> {
        // The same grammar with a number in the place of the port.
        let refused = |_| ListenError::Address(text.to_owned());
        let (fd, head) = text.split_once(',').map_or((text, String::new()), |(fd, head)| (fd, format!(",{head}")));
        let head = format!("0{head}").parse::<ListenAddress>()?.head;
        Ok(Self { fd: fd.parse::<u16>().map_err(refused)?.into(), head })
    }
}

impl ListenFd {
    /// Takes the socket; the address is checked as if it had been opened here.
    pub fn take(self) -> Result<Listening, ListenError> {
        let failed = |source| ListenError::Fd { fd: self.fd, source };
        let fd = inherited(self.fd).map_err(failed)?;
        let is_listening = || -> rustix::io::Result<bool> {
            let family = sockopt::socket_domain(&fd)?;
            let inet = family == AddressFamily::INET || family == AddressFamily::INET6;
            Ok(inet && sockopt::socket_type(&fd)? == SocketType::STREAM && sockopt::socket_acceptconn(&fd)?)
        };
        match is_listening() {
            Ok(true) => {}
            Ok(false) => return Err(failed(io::ErrorKind::InvalidInput.into())),
            Err(errno) => return Err(failed(errno.into())),
        }
        let socket = TcpListener::from(fd);
        match socket.local_addr().map_err(failed)? {
            address if address.ip().is_loopback() => Ok(Listening { socket, head: self.head }),
            open => Err(ListenError::Open(open)),
        }
    }
}

/// An open socket, and the head that is shown there.
#[derive(Debug)]
pub struct Listening {
    socket: TcpListener,
    head: u8,
}

impl Listening {
    /// Where it listens; port 0 has become a real one.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// The head that is shown there, unless a page asks for another.
    pub fn head(&self) -> u8 {
        self.head
    }

    /// The socket, for a supervisor that keeps it open while viewers come and go.
    pub fn into_socket(self) -> TcpListener {
        self.socket
    }

    pub(crate) fn into_parts(self) -> io::Result<(tokio::net::TcpListener, u8)> {
        self.socket.set_nonblocking(true)?;
        Ok((tokio::net::TcpListener::from_std(self.socket)?, self.head))
    }
}

/// A descriptor that the process was started with. The kernel gives us a duplicate, so that no number has to be believed.
pub(crate) fn inherited(fd: RawFd) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::from_raw_os_error(rustix::io::Errno::BADF.raw_os_error()));
    }
    let this = pidfd_open(getpid(), PidfdFlags::empty())?;
    Ok(pidfd_getfd(this, fd, PidfdGetfdFlags::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::os::fd::AsRawFd;

    fn address(text: &str) -> Option<(String, u8)> {
        let address = text.parse::<ListenAddress>().ok()?;
        Some((address.to_string(), address.head))
    }

    #[test]
    fn addresses_as_people_write_them() {
        assert_eq!(address("5900"), Some(("127.0.0.1:5900".into(), 0)));
        assert_eq!(address(":5900,head=2"), Some(("127.0.0.1:5900".into(), 2)));
        assert_eq!(address("localhost:0"), Some(("localhost:0".into(), 0)));
        assert_eq!(address("[::1]:80"), Some(("[::1]:80".into(), 0)));
        for wrong in ["", "x", "70000", "1.2.3.4", "1:2,head=16", "1:2,heads=1", "1:2,"] {
            assert_eq!(address(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn an_address_that_the_network_can_reach_is_refused_and_the_way_out_is_named() {
        for open in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"] {
            let error = open.parse::<ListenAddress>().unwrap().bind().unwrap_err();
            assert!(matches!(error, ListenError::Open(_)), "{error}");
            assert!(error.to_string().contains("ssh -L"));
        }
    }

    #[test]
    fn a_taken_port_is_named() {
        let first = "127.0.0.1:0".parse::<ListenAddress>().unwrap().bind().unwrap();
        let address = first.address().unwrap();
        let error = address.to_string().parse::<ListenAddress>().unwrap().bind().unwrap_err();
        assert_eq!(error.to_string(), format!("Cannot listen on {address}"));
    }

    #[test]
    fn a_socket_of_a_supervisor_is_taken_if_it_listens_on_this_host_only() {
        let take = |fd: RawFd| format!("{fd},head=3").parse::<ListenFd>().unwrap().take();
        let listening = TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = take(listening.as_raw_fd()).unwrap();
        assert_eq!((taken.address().unwrap(), taken.head()), (listening.local_addr().unwrap(), 3));
        let open = TcpListener::bind("0.0.0.0:0").unwrap();
        assert!(matches!(take(open.as_raw_fd()), Err(ListenError::Open(_))));
        let connected = std::net::TcpStream::connect(listening.local_addr().unwrap()).unwrap();
        assert!(matches!(take(connected.as_raw_fd()), Err(ListenError::Fd { .. })));
        let (unix, _) = frames::pair().unwrap();
        assert!(matches!(take(unix.as_raw_fd()), Err(ListenError::Fd { .. })));
        assert!(matches!(take(60_000), Err(ListenError::Fd { fd: 60_000, .. })));
        assert!("x".parse::<ListenFd>().is_err());
        assert!("7,head=99".parse::<ListenFd>().is_err());
    }
}
