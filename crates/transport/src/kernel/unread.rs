//! How much of what was sent its receiver has not taken yet.

use std::os::fd::AsFd;

use rustix::io::Errno;
use rustix::ioctl::{Getter, Opcode, ioctl};

/// SIOCOUTQ.
const UNREAD: Opcode = libc::TIOCOUTQ as Opcode;

/// About how many bytes lie in a local socket's receiver's queue; less than a message has once all was read.
pub fn unread(socket: impl AsFd) -> Result<usize, Errno> {
    // SAFETY: SIOCOUTQ writes one int and has no other effect.
    let unread = unsafe { ioctl(socket, Getter::<UNREAD, libc::c_int>::new()) }?;
    Ok(usize::try_from(unread).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn what_was_read_is_not_unread() {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        assert_eq!(unread(&ours), Ok(0));
        ours.write_all(&[0; 12]).unwrap();
        assert!(unread(&ours).unwrap() >= 12);
        theirs.read_exact(&mut [0; 11]).unwrap();
        assert!(unread(&ours).unwrap() >= 12, "not all of it");
        theirs.read_exact(&mut [0; 1]).unwrap();
        assert_eq!(unread(&ours), Ok(0));
        assert!(unread(std::fs::File::open("/").unwrap()).is_err());
    }
}
