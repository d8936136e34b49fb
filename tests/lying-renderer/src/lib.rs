//! A process of a library for 3D that a guest took over. Loaded before the C library (`LD_PRELOAD`), it waits until the process is
//! locked in and about to load that library. Then it puts itself between the process and its device: the process keeps rings,
//! bells and a socket, but they end at a thread of ours, which has the true ones and passes on what it likes.
//!
//! A guest's program chooses the lie by its own name: `lie-twice` answers twice from its first command on, until its context is
//! closed. See `lies::Lie`. Everybody else is served honestly.
#![allow(unsafe_code)] // A function of the C library by its own rules, and a mapping that is replaced by another.

mod lies;
mod relay;

use std::ffi::{CStr, c_char, c_int, c_void};
use std::fs::{self, File};
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use anyhow::{Context, Result, ensure};
use renderer::isolated::wire::at;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::io::{DupFlags, dup3, fcntl_dupfd_cloexec};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use vm_memory::{FileOffset, MmapRegion};

use crate::relay::{Relay, Side};

/// The word after a program's name that makes it serve a device.
const ROLE: &str = "as-renderer";
/// What a file of shared memory is called.
const MEMORY: &str = "/memfd:beamsplit-renderer";
/// What a bell is called.
const BELL: &str = "anon_inode:[eventfd]";

/// Takes `dlopen`.
///
/// # Safety
/// As of the C library's: the name is a string or null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dlopen(name: *const c_char, flags: c_int) -> *mut c_void {
    // SAFETY: a name that is not null is a string, by this function's own rule.
    if !name.is_null() && unsafe { CStr::from_ptr(name) }.to_string_lossy().contains("virglrenderer") {
        let words: Vec<String> = std::env::args().collect();
        if let [_, role, _, socket, ..] = words.as_slice()
            && role == ROLE
            && let Err(error) = take_over(socket)
        {
            eprintln!("lying renderer: {error:#}");
        }
    }
    // SAFETY: there is such a function behind ours, of this type, and the caller keeps its promises.
    unsafe {
        let real = libc::dlsym(libc::RTLD_NEXT, c"dlopen".as_ptr());
        let real: unsafe extern "C" fn(*const c_char, c_int) -> *mut c_void = std::mem::transmute(real);
        real(name, flags)
    }
}

/// Puts a thread between this process and its device.
fn take_over(socket: &str) -> Result<()> {
    let files = files()?;
    let named =
        |name: &str| files.iter().filter(|(_, link)| link.starts_with(name)).map(|(fd, _)| *fd).collect::<Vec<_>>();
    let (memory, bells) = (named(MEMORY), named(BELL));
    ensure!(memory.len() == 1 && bells.len() == 2, "Not the files of a process for 3D: {files:?}");

    let start = mapped_at()?;
    let decoy = memfd_create("decoy", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    ftruncate(&decoy, at::END as u64)?;
    fcntl_add_seals(&decoy, SealFlags::SHRINK)?;
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    let socket = socket.parse().context("The socket is no number")?;
    let ring = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);

    let device = Side {
        memory: map(duplicate(memory[0])?)?,
        bells: bells.iter().map(|bell| duplicate(*bell)).collect::<Result<_>>()?,
        socket: duplicate(socket)?,
    };
    let child = Side { memory: map(decoy.try_clone()?)?, bells: vec![ring()?, ring()?], socket: ours };
    for (number, bell) in bells.iter().zip(&child.bells) {
        replace(*number, bell.as_fd())?;
    }
    replace(socket, theirs.as_fd())?;
    replace_mapping(start, &decoy)?;
    std::thread::Builder::new().spawn(move || Relay::new(device, child).run())?;
    Ok(())
}

fn map(file: OwnedFd) -> Result<MmapRegion> {
    MmapRegion::from_file(FileOffset::new(File::from(file), 0), at::END).context("Cannot map shared memory")
}

/// The open files of this process and what they are called.
fn files() -> Result<Vec<(RawFd, String)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir("/proc/self/fd").context("Cannot see our own files")? {
        let entry = entry?;
        // The folder itself is open too, and gone by then.
        let (Ok(link), Some(name)) = (fs::read_link(entry.path()), entry.file_name().to_str().map(str::to_owned))
        else {
            continue;
        };
        files.push((name.parse()?, link.to_string_lossy().into_owned()));
    }
    files.sort_unstable();
    Ok(files)
}

/// All memory files that are open in this process, with their names.
fn memory_files() -> Result<Vec<(OwnedFd, String)>> {
    let memory = files()?.into_iter().filter(|(_, link)| link.starts_with("/memfd:"));
    Ok(memory.filter_map(|(number, link)| Some((duplicate(number).ok()?, link))).collect())
}

fn duplicate(number: RawFd) -> Result<OwnedFd> {
    // SAFETY: whoever has this number is not told; if it is closed meanwhile, the kernel says so.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    Ok(fcntl_dupfd_cloexec(borrowed, 0)?)
}

/// Puts another file behind a number.
fn replace(number: RawFd, file: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: its owner goes on owning the number, and is the only one who closes it.
    let mut target = ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(number) });
    Ok(dup3(file, &mut target, DupFlags::CLOEXEC)?)
}

/// Ends this process as it is.
fn end() -> ! {
    // SAFETY: a number.
    unsafe { libc::_exit(3) }
}

/// Where this process has mapped what it shares with its device.
fn mapped_at() -> Result<usize> {
    let maps = fs::read_to_string("/proc/self/maps").context("Cannot see our own mappings")?;
    let line = maps.lines().find(|line| line.contains(MEMORY)).context("Nothing is shared")?;
    Ok(usize::from_str_radix(line.split('-').next().unwrap_or_default(), 16)?)
}

/// Puts other memory there.
fn replace_mapping(start: usize, file: &OwnedFd) -> Result<()> {
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: this many bytes are mapped there, from a file of the same length, and nobody has looked at them yet: the thread that
    // will is this one.
    let mapped = unsafe {
        libc::mmap(start as *mut c_void, at::END, access, libc::MAP_SHARED | libc::MAP_FIXED, file.as_raw_fd(), 0)
    };
    ensure!(mapped as usize == start, "The kernel does not replace a mapping");
    Ok(())
}
