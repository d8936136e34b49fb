//! A client of the guest's virtio-gpu, by the kernel's own ioctls: as a driver of OpenGL or Vulkan is one, without any of that.
#![allow(unsafe_code)] // Requests of the kernel, and memory that it maps.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::ioctl::{Opcode, Updater, ioctl, opcode};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

const NODE: &str = "/dev/dri/renderD128";

/// A drm_virtgpu_* structure, as words of 32 bits: none of them has holes.
struct Words<const N: usize>([u32; N]);

const fn request<const N: usize>(number: u8) -> Opcode {
    opcode::read_write::<[u32; N]>(b'd', number)
}

const MAP: Opcode = request::<4>(0x41);
const EXECBUFFER: Opcode = request::<16>(0x42);
const CREATE_BLOB: Opcode = request::<12>(0x4a);
const CONTEXT_INIT: Opcode = request::<4>(0x4b);
const GEM_CLOSE: Opcode = opcode::write::<[u32; 2]>(b'd', 0x09);

/// VIRTGPU_BLOB_MEM_HOST3D and VIRTGPU_BLOB_FLAG_USE_MAPPABLE.
const HOST: u32 = 2;
const MAPPABLE: u32 = 1;
/// VIRTGPU_EXECBUF_FENCE_FD_OUT.
const FENCE_OUT: u32 = 2;
/// VIRTGPU_CONTEXT_PARAM_CAPSET_ID.
const CAPSET: u64 = 1;

/// What was submitted last, until it has ended.
#[derive(Default)]
pub struct Submitted(Mutex<Option<(Client, OwnedFd)>>);

impl Submitted {
    /// Submits work of a new client: a command that does nothing.
    pub fn submit(&self, capset: u32) -> Result<()> {
        let client = Client::open(capset)?;
        let fence = client.submit()?;
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some((client, fence));
        Ok(())
    }

    /// Whether it has ended, or does within some time.
    pub fn ended(&self, patience: Duration) -> Result<bool> {
        let submitted = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (_, fence) = submitted.as_ref().context("Nothing was submitted")?;
        let limit = Timespec { tv_sec: i64::try_from(patience.as_secs())?, tv_nsec: 0 };
        Ok(poll(&mut [PollFd::new(fence, PollFlags::IN)], Some(&limit)).context("Cannot wait for a fence")? > 0)
    }
}

/// An open node with a context of its own.
struct Client(File);

impl Client {
    /// Opens one; a capset of 0 leaves the kind of context to the kernel, as old programs do.
    fn open(capset: u32) -> Result<Self> {
        let file =
            OpenOptions::new().read(true).write(true).open(NODE).with_context(|| format!("Cannot open {NODE}"))?;
        let client = Client(file);
        if capset != 0 {
            let parameters = [CAPSET, u64::from(capset)];
            let [low, high] = halves(parameters.as_ptr().addr() as u64);
            client.ask::<CONTEXT_INIT, 4>(&mut Words([1, 0, low, high])).context("No such context")?;
        }
        Ok(client)
    }

    fn ask<const REQUEST: Opcode, const N: usize>(&self, words: &mut Words<N>) -> rustix::io::Result<()> {
        // SAFETY: each request has as many words as it is asked with, and what they point to lives as long as the call.
        unsafe { ioctl(&self.0, Updater::<REQUEST, [u32; N]>::new(&mut words.0)) }
    }

    fn submit(&self) -> Result<OwnedFd> {
        // One word: a header of length 0 and command 0 does nothing.
        let command = [0_u32];
        let [low, high] = halves(command.as_ptr().addr() as u64);
        let mut words = Words([0; 16]);
        (words.0[0], words.0[1], words.0[2], words.0[3]) = (FENCE_OUT, 4, low, high);
        self.ask::<EXECBUFFER, 16>(&mut words).context("The kernel takes no command")?;
        // SAFETY: with that flag the kernel has made a file for us and put its number there.
        Ok(unsafe { OwnedFd::from_raw_fd(words.0[7].cast_signed()) })
    }
}

fn halves(word: u64) -> [u32; 2] {
    [word as u32, (word >> 32) as u32]
}

/// Memory of the host, mapped.
struct Blob<'a> {
    client: &'a Client,
    handle: u32,
    start: NonNull<u64>,
    bytes: usize,
}

impl<'a> Blob<'a> {
    fn new(client: &'a Client, bytes: usize) -> Result<Self> {
        let [low, high] = halves(bytes as u64);
        let mut words = Words([HOST, MAPPABLE, 0, 0, low, high, 0, 0, 0, 0, 0, 0]);
        client.ask::<CREATE_BLOB, 12>(&mut words).context("No memory of the host")?;
        let handle = words.0[2];
        let mut words = Words([0, 0, handle, 0]);
        client.ask::<MAP, 4>(&mut words).context("No place for a mapping")?;
        let offset = u64::from(words.0[0]) | u64::from(words.0[1]) << 32;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a mapping at a place that the kernel chooses; it goes with the value.
        let start = unsafe { mmap(std::ptr::null_mut(), bytes, access, MapFlags::SHARED, client.0.as_fd(), offset) };
        let start = NonNull::new(start.context("The host's memory is not mapped")?.cast()).context("Mapped at 0")?;
        Ok(Blob { client, handle, start, bytes })
    }

    /// Its first and its last word.
    fn ends(&self) -> [NonNull<u64>; 2] {
        // SAFETY: both are inside: a blob has at least a page.
        [self.start, unsafe { self.start.add(self.bytes / 8 - 1) }]
    }

    fn write(&self, token: u64) {
        for word in self.ends() {
            // SAFETY: mapped, aligned, and only this thread has it.
            unsafe { word.write_volatile(token) };
        }
    }

    fn read(&self) -> [u64; 2] {
        // SAFETY: as in `write`.
        self.ends().map(|word| unsafe { word.read_volatile() })
    }
}

impl Drop for Blob<'_> {
    fn drop(&mut self) {
        // SAFETY: it was mapped so, and nobody has a pointer into it any more.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.bytes) };
        let mut words = Words([self.handle, 0]);
        // SAFETY: this request has two words.
        let _ = unsafe { ioctl(&self.client.0, Updater::<GEM_CLOSE, [u32; 2]>::new(&mut words.0)) };
    }
}

/// Maps many blobs at once, each with a word of its own, lets every other one go, maps as many again, and looks whether each word is
/// still where it was written.
pub fn blobs(capset: u32, count: u32, bytes: u32, keep: bool) -> Result<()> {
    let client = Client::open(capset)?;
    let make = |number: u32| -> Result<(u64, Blob)> {
        let blob = Blob::new(&client, bytes as usize).with_context(|| format!("Blob {number}"))?;
        let token = u64::from(number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        blob.write(token);
        Ok((token, blob))
    };
    let mut blobs = (0..count).map(make).collect::<Result<Vec<_>>>()?;
    let mut number = 0;
    blobs.retain(|_| {
        number += 1;
        number % 2 == 0
    });
    for number in 0..count / 2 {
        blobs.insert(number as usize, make(count + number)?);
    }
    for (place, (token, blob)) in blobs.iter().enumerate() {
        let found = blob.read();
        ensure!(found == [*token; 2], "Blob {place} holds {found:x?} at its ends, not {token:x}");
    }
    if keep {
        std::mem::forget(blobs);
        std::mem::forget(client);
    }
    Ok(())
}

/// Maps blobs one after the other, each at the place of the one before, beside others that stay. Into each it stores as soon as it can.
/// Returns how many of these words it then does not find, and how many blobs were not mapped.
pub fn stores(capset: u32, others: u32, rounds: u32, bytes: u32) -> Result<(u32, u32)> {
    let client = Client::open(capset)?;
    let make = |_| Blob::new(&client, bytes as usize);
    let first = make(0)?;
    // Behind the first one's place, which is free then.
    let _others = (0..others).map(make).collect::<Result<Vec<_>>>()?;
    drop(first);
    let (mut lost, mut refused) = (0, 0);
    for round in 1..=rounds {
        let token = u64::from(round).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let Ok(blob) = make(round) else {
            refused += 1;
            continue;
        };
        blob.write(token);
        let found = blob.read();
        if found != [token; 2] {
            println!("Blob {round} holds {found:x?} at its ends, not {token:x}");
            lost += found.iter().map(|word| u32::from(*word != token)).sum::<u32>();
        }
    }
    Ok((lost, refused))
}
