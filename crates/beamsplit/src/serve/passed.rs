//! Sockets that systemd bound for us (sd_listen_fds(3)).
#![allow(unsafe_code)] // A number becomes an owned descriptor only here; the standard library has no safe way.

use std::ffi::OsString;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixListener;

use anyhow::{Context, Result, ensure};
use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};
use rustix::net::{AddressFamily, SocketType, sockopt};

/// Where the numbers of passed descriptors begin.
const FIRST: i32 = 3;

/// The listening socket that was passed, if one was; `pid` is ours.
pub fn listener(variable: impl Fn(&str) -> Option<OsString>, pid: u32) -> Result<Option<UnixListener>> {
    let number = |name| variable(name).and_then(|text| text.to_str()?.parse::<u32>().ok());
    if number("LISTEN_PID") != Some(pid) {
        return Ok(None);
    }
    match number("LISTEN_FDS").unwrap_or(0) {
        0 => Ok(None),
        1 => take(FIRST).map(Some).context("Cannot use the socket that was passed"),
        count => anyhow::bail!("{count} sockets were passed: let beamsplit.socket name one"),
    }
}

fn take(fd: i32) -> Result<UnixListener> {
    // SAFETY: `fd` is not negative; the borrow ends before this function does, and nothing closes it meanwhile.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    // What this process opens itself has the mark that what it was passed has not.
    let flags = fcntl_getfd(borrowed).context("It is not open")?;
    ensure!(!flags.contains(FdFlags::CLOEXEC), "It was not passed");
    ensure!(
        sockopt::socket_domain(borrowed).context("It is no socket")? == AddressFamily::UNIX,
        "It is no Unix socket"
    );
    ensure!(sockopt::socket_type(borrowed)? == SocketType::STREAM, "It is not a stream: say ListenStream=");
    ensure!(sockopt::socket_acceptconn(borrowed)?, "Nobody can connect to it: say Accept=no");
    fcntl_setfd(borrowed, FdFlags::CLOEXEC)?;
    // SAFETY: it is open, as was just seen, and nothing in this process owns it, as its mark told.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) }.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::{AsFd, IntoRawFd};
    use std::os::unix::net::UnixStream;

    #[test]
    fn what_was_passed_to_another_process_is_not_taken() {
        let value = |name: &str| match name {
            "LISTEN_PID" => Some("8".into()),
            "LISTEN_FDS" => Some("1".into()),
            _ => None,
        };
        assert!(listener(value, 7).unwrap().is_none());
        assert!(listener(|_| None, 7).unwrap().is_none());
    }

    #[test]
    fn only_a_listening_unix_stream_is_taken_and_only_once() {
        let folder = tempfile::tempdir().unwrap();
        let socket = UnixListener::bind(folder.path().join("s")).unwrap();
        let (stream, _other) = UnixStream::pair().unwrap();
        for fd in [socket.as_fd(), stream.as_fd()] {
            fcntl_setfd(fd, FdFlags::empty()).unwrap();
        }
        assert!(take(stream.into_raw_fd()).unwrap_err().to_string().contains("Nobody can connect"));
        let number = socket.into_raw_fd();
        let taken = take(number).unwrap();
        assert!(take(number).unwrap_err().to_string().contains("not passed"));
        drop(taken);
        assert!(take(1_000_000).unwrap_err().to_string().contains("not open"));
    }
}
