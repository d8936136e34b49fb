//! Descriptors that another process opened for us and named by number: the VMM's socket (`--fd`), the launcher's.
#![allow(unsafe_code)] // A number becomes an owned descriptor only here; the standard library has no safe way.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use anyhow::{Context, Result, ensure};
use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};
use rustix::net::{AddressFamily, SocketType, sockopt};

/// Takes ownership of a socket of the Unix family that was passed as number `fd`, once.
///
/// What this process opens itself is marked to be closed when it executes another program; what it was passed is not,
/// or it would not be here. The mark, which is set here, tells a descriptor that is owned already.
pub fn unix_socket(fd: RawFd, kind: SocketType) -> Result<OwnedFd> {
    ensure!(fd > 2, "File descriptor {fd} is a standard stream: pass a socket as 3 or above");
    // SAFETY: `fd` is not negative; the borrow ends before this function does, and nothing closes it meanwhile.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    let flags = fcntl_getfd(borrowed);
    let flags = flags.with_context(|| format!("File descriptor {fd} is not open: the parent must pass it"))?;
    ensure!(!flags.contains(FdFlags::CLOEXEC), "File descriptor {fd} was not passed by the parent");
    let family = sockopt::socket_domain(borrowed).with_context(|| format!("File descriptor {fd} is not a socket"))?;
    ensure!(family == AddressFamily::UNIX, "File descriptor {fd} is not a Unix socket");
    ensure!(sockopt::socket_type(borrowed)? == kind, "File descriptor {fd} is a socket of another type");
    fcntl_setfd(borrowed, FdFlags::CLOEXEC)?;
    // SAFETY: it is open, as was just seen, and nothing in this process owns it, as its mark told.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Takes ownership of all else that was passed, whatever it is: nothing that is started gets it unless it is told so.
pub fn rest() -> Result<Vec<OwnedFd>> {
    let numbers = std::fs::read_dir("/proc/self/fd").context("Cannot look what was passed")?;
    let numbers = numbers.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<RawFd>().ok());
    let passed = numbers.filter(|number| *number > 2).filter_map(|number| {
        // SAFETY: `number` is not negative; the borrow ends before this closure does, and nothing closes it meanwhile.
        let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
        let flags = fcntl_getfd(borrowed).ok().filter(|flags| !flags.contains(FdFlags::CLOEXEC))?;
        fcntl_setfd(borrowed, flags | FdFlags::CLOEXEC).ok()?;
        // SAFETY: it is open, as was just seen, and nothing in this process owns it, as its mark told.
        Some(unsafe { OwnedFd::from_raw_fd(number) })
    });
    Ok(passed.collect())
}

/// Lets the next program started have this descriptor, and names it. Who stays long marks it again, or closes it.
pub fn inherit(fd: BorrowedFd<'_>) -> Result<String> {
    fcntl_setfd(fd, FdFlags::empty()).context("Cannot pass a descriptor on")?;
    Ok(fd.as_raw_fd().to_string())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::{AsFd, IntoRawFd};
    use std::os::unix::net::UnixStream;

    #[test]
    fn only_a_passed_socket_is_taken_and_only_once() {
        let file = File::open("/dev/null").unwrap();
        let (stream, other) = UnixStream::pair().unwrap();
        for fd in [file.as_fd(), stream.as_fd()] {
            fcntl_setfd(fd, FdFlags::empty()).unwrap();
        }
        for (number, kind, why) in [
            (-1, SocketType::STREAM, "standard stream"),
            (0, SocketType::STREAM, "standard stream"),
            (1_000_000, SocketType::STREAM, "not open"),
            (file.as_raw_fd(), SocketType::STREAM, "not a socket"),
            (stream.as_raw_fd(), SocketType::SEQPACKET, "another type"),
            (other.as_raw_fd(), SocketType::STREAM, "not passed"),
        ] {
            let message = unix_socket(number, kind).unwrap_err().to_string();
            assert!(message.contains(why), "{number}: {message}");
        }
        let taken = unix_socket(stream.into_raw_fd(), SocketType::STREAM).unwrap();
        let again = unix_socket(taken.as_raw_fd(), SocketType::STREAM);
        assert!(again.unwrap_err().to_string().contains("not passed"));
        drop(taken);
        assert_eq!(std::io::Read::read(&mut &other, &mut [0]).unwrap(), 0);
    }

    /// What a debugger would do, for the sandbox to refuse.
    pub fn trace_me() -> std::io::Result<()> {
        // SAFETY: PTRACE_TRACEME takes no pointers; it only makes the parent our tracer.
        match unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) } {
            -1 => Err(std::io::Error::last_os_error()),
            _ => Ok(()),
        }
    }

    /// What a window of a front-end's asks of its socket, for the sandbox to allow: how much was not read yet.
    pub fn unread(socket: &UnixStream) -> std::io::Result<libc::c_int> {
        let mut unread = 0;
        // SAFETY: SIOCOUTQ writes one int, which is there, and has no other effect.
        match unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &mut unread) } {
            -1 => Err(std::io::Error::last_os_error()),
            _ => Ok(unread),
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
