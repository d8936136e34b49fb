//! Sends pixels from where they are.
//!
//! The only module with unsafe code in this crate: the kernel reads the guest's pages and shared memory by address, since
//! no Rust reference may exist to bytes that others write. A page that vanished is an error of the call, not a signal.
#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;
use vm_memory::VolatileSlice;

/// Pieces of one call: a page each of a megabyte.
const MAX_PIECES: usize = 256;

/// A list of pieces of memory, to be sent by one system call.
pub(crate) struct Gather<'a> {
    pieces: [MaybeUninit<libc::iovec>; MAX_PIECES],
    count: usize,
    bytes: usize,
    memory: PhantomData<VolatileSlice<'a>>,
}

impl<'a> Gather<'a> {
    /// Nothing to send.
    pub(crate) fn new() -> Self {
        Self { pieces: [const { MaybeUninit::uninit() }; MAX_PIECES], count: 0, bytes: 0, memory: PhantomData }
    }

    /// Bytes of all pieces.
    pub(crate) fn len(&self) -> usize {
        self.bytes
    }

    /// Whether another piece finds no room.
    pub(crate) fn is_full(&self) -> bool {
        self.count == MAX_PIECES
    }

    /// Appends bytes that nobody writes.
    pub(crate) fn push(&mut self, bytes: &'a [u8]) {
        self.push_address(bytes.as_ptr(), bytes.len());
    }

    /// Appends bytes that others may write at any time.
    pub(crate) fn push_volatile(&mut self, bytes: &VolatileSlice<'a>) {
        self.push_address(bytes.ptr_guard().as_ptr(), bytes.len());
    }

    fn push_address(&mut self, start: *const u8, len: usize) {
        if len > 0
            && let Some(place) = self.pieces.get_mut(self.count)
        {
            place.write(libc::iovec { iov_base: start.cast_mut().cast(), iov_len: len });
            self.count += 1;
            self.bytes += len;
        }
    }

    /// Sends as much as the socket takes now and returns how much that was.
    pub(crate) fn send(&self, socket: BorrowedFd<'_>) -> Result<usize, Errno> {
        loop {
            // SAFETY: msghdr is a structure of integers and pointers, for which zero is a valid value.
            let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
            message.msg_iov = self.pieces.as_ptr().cast_mut().cast();
            message.msg_iovlen = self.count as _;
            // SAFETY: the first `count` pieces are initialised, and the memory that they point to outlives `'a`, which
            // outlives this call. The kernel only reads it.
            let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &message, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) };
            match usize::try_from(sent) {
                Ok(sent) => return Ok(sent),
                Err(_) => match Errno::from_io_error(&std::io::Error::last_os_error()) {
                    Some(Errno::INTR) => {}
                    error => return Err(error.unwrap_or(Errno::IO)),
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use vm_memory::{MmapRegion, VolatileMemory};

    use super::*;

    #[test]
    fn pieces_arrive_in_order_whatever_memory_they_are_in() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let memory: MmapRegion = MmapRegion::new(4096).unwrap();
        let slice = memory.as_volatile_slice();
        slice.copy_from(&[7u8, 8, 9]);
        let mut gather = Gather::new();
        gather.push(b"ab");
        gather.push(b"");
        gather.push_volatile(&slice.subslice(1, 2).unwrap());
        gather.push(b"c");
        assert_eq!((gather.len(), gather.send(ours.as_fd())), (5, Ok(5)));
        let mut got = [0; 5];
        theirs.read_exact(&mut got).unwrap();
        assert_eq!(got, [b'a', b'b', 8, 9, b'c']);
    }

    #[test]
    fn what_finds_no_room_is_left_out() {
        let mut gather = Gather::new();
        (0..MAX_PIECES + 5).for_each(|_| gather.push(b"x"));
        assert!(gather.is_full());
        assert_eq!(gather.len(), MAX_PIECES);
    }

    #[test]
    fn a_page_that_vanished_is_an_error() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(8192).unwrap();
        let region =
            MmapRegion::<()>::from_file(vm_memory::FileOffset::new(file.try_clone().unwrap(), 0), 8192).unwrap();
        file.set_len(0).unwrap();
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let mut gather = Gather::new();
        gather.push_volatile(&region.as_volatile_slice());
        assert_eq!(gather.send(ours.as_fd()), Err(Errno::FAULT));
    }

    #[test]
    fn a_peer_that_hung_up_is_an_error_and_no_signal() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        let mut gather = Gather::new();
        gather.push(b"x");
        assert_eq!(gather.send(ours.as_fd()), Err(Errno::PIPE));
    }
}
