//! Descriptors that another process opened for us and named by number: the VMM's socket (`--fd`), the launcher's.
#![allow(unsafe_code)] // A number becomes an owned descriptor only here; the standard library has no safe way.

use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Mutex;

use anyhow::{Context, Result, ensure};
use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};
use rustix::net::{AddressFamily, SocketType, sockopt};

static TAKEN: Mutex<Vec<RawFd>> = Mutex::new(Vec::new());

/// Takes ownership of a socket of the Unix family that was passed as number `fd`. Call before anything else in this
/// process opens files, so that the number cannot mean a descriptor of ours.
pub fn unix_socket(fd: RawFd, kind: SocketType) -> Result<OwnedFd> {
    ensure!(fd > 2, "File descriptor {fd} is a standard stream: pass a socket as 3 or above");
    let mut taken = TAKEN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    ensure!(!taken.contains(&fd), "File descriptor {fd} is named twice");
    // SAFETY: `fd` is not negative; the borrow ends before this function does, and nothing closes it meanwhile.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    fcntl_getfd(borrowed).with_context(|| format!("File descriptor {fd} is not open: the parent must pass it"))?;
    let family = sockopt::socket_domain(borrowed).with_context(|| format!("File descriptor {fd} is not a socket"))?;
    ensure!(family == AddressFamily::UNIX, "File descriptor {fd} is not a Unix socket");
    ensure!(sockopt::socket_type(borrowed)? == kind, "File descriptor {fd} is a socket of another type");
    fcntl_setfd(borrowed, FdFlags::CLOEXEC)?;
    taken.push(fd);
    // SAFETY: it is open, as was just seen, inherited, so that nothing in this process owns it, and not taken before.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::{AsRawFd, IntoRawFd};
    use std::os::unix::net::UnixStream;

    #[test]
    fn only_a_passed_socket_is_taken_and_only_once() {
        let file = File::open("/dev/null").unwrap();
        let (stream, _other) = UnixStream::pair().unwrap();
        for (number, kind, why) in [
            (-1, SocketType::STREAM, "standard stream"),
            (0, SocketType::STREAM, "standard stream"),
            (1_000_000, SocketType::STREAM, "not open"),
            (file.as_raw_fd(), SocketType::STREAM, "not a socket"),
            (stream.as_raw_fd(), SocketType::SEQPACKET, "another type"),
        ] {
            let message = unix_socket(number, kind).unwrap_err().to_string();
            assert!(message.contains(why), "{number}: {message}");
        }
        let (ours, theirs) = UnixStream::pair().unwrap();
        let number = theirs.into_raw_fd();
        let taken = unix_socket(number, SocketType::STREAM).unwrap();
        assert!(unix_socket(number, SocketType::STREAM).unwrap_err().to_string().contains("twice"));
        drop(taken);
        assert_eq!(std::io::Read::read(&mut &ours, &mut [0]).unwrap(), 0);
    }

    /// What a debugger would do, for the sandbox to refuse.
    pub fn trace_me() -> std::io::Result<()> {
        // SAFETY: PTRACE_TRACEME takes no pointers; it only makes the parent our tracer.
        match unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) } {
            -1 => Err(std::io::Error::last_os_error()),
            _ => Ok(()),
        }
    }

    /// What injected code needs, for the sandbox to refuse.
    pub fn map_code() -> std::io::Result<()> {
        let protection = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory in use.
        match unsafe { libc::mmap(std::ptr::null_mut(), 4096, protection, flags, -1, 0) } {
            libc::MAP_FAILED => Err(std::io::Error::last_os_error()),
            _ => Ok(()),
        }
    }
}
