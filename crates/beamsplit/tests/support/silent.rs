//! A file system of a hostile user's (FUSE): it says that there is a socket, and whoever asks for that never hears an answer.

use std::fs::File;
use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// What is mounted by whoever has [`Silent::device`] as its standard input: `mount -i -t fuse -o OPTIONS x FOLDER`.
pub const OPTIONS: &str = "fd=0,rootmode=40755,user_id=0,group_id=0,allow_other";

const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const INIT: u32 = 26;
const OPENDIR: u32 = 27;
const READDIR: u32 = 28;
const RELEASEDIR: u32 = 29;
const INTERRUPT: u32 = 36;
const NO_SUCH_FILE: i32 = 2;
const NO_SUCH_CALL: i32 = 38;
const HEADER: usize = 40;
/// The kernel reads and writes in requests of at most this.
const LARGEST: u32 = 1 << 16;
/// After so long all are answered, whatever became of the test: a process that waits for an answer cannot even be killed.
const LAST: Duration = Duration::from_secs(240);

/// One that is served until it is dropped. Then all who wait are answered.
pub struct Silent {
    device: File,
    waiting: Arc<AtomicUsize>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Silent {
    /// `None`: this host has no FUSE.
    pub fn new() -> Option<Self> {
        let device = File::options().read(true).write(true).open("/dev/fuse").ok()?;
        let (waiting, over) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (served, count, end) = (device.try_clone().unwrap(), waiting.clone(), over.clone());
        let thread = Some(std::thread::spawn(move || serve(served, &count, &end)));
        Some(Silent { device, waiting, over, thread })
    }

    /// For whoever mounts it.
    pub fn device(&self) -> File {
        self.device.try_clone().unwrap()
    }

    /// How many wait for an answer.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        let _ = self.thread.take().unwrap().join();
    }
}

fn serve(mut device: File, waiting: &AtomicUsize, over: &AtomicBool) {
    let begin = Instant::now();
    let mut unanswered = Vec::new();
    let mut request = vec![0; 2 * LARGEST as usize];
    while !over.load(Ordering::SeqCst) && begin.elapsed() < LAST {
        let pause = Timespec::try_from(Duration::from_millis(20)).unwrap();
        let mut fds = [PollFd::new(&device, PollFlags::IN)];
        // Before it is mounted there is nothing to wait for but an error.
        if !poll(&mut fds, Some(&pause)).is_ok_and(|ready| ready > 0) || !fds[0].revents().contains(PollFlags::IN) {
            std::thread::sleep(Duration::from_millis(5));
            continue;
        }
        let Ok(length @ HEADER..) = device.read(&mut request) else { continue };
        let number = |at: usize| u32::from_le_bytes(request[at..at + 4].try_into().unwrap());
        let unique = u64::from_le_bytes(request[8..16].try_into().unwrap());
        match number(4) {
            INIT => answer(&mut device, unique, 0, &welcome()),
            GETATTR => answer(&mut device, unique, 0, &folder()),
            OPENDIR => answer(&mut device, unique, 0, &[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            READDIR if length > HEADER + 16 && number(HEADER + 8) == 0 => answer(&mut device, unique, 0, &entry()),
            READDIR | RELEASEDIR => answer(&mut device, unique, 0, &[]),
            LOOKUP => {
                unanswered.push(unique);
                waiting.store(unanswered.len(), Ordering::SeqCst);
            }
            FORGET | INTERRUPT => {}
            _ => answer(&mut device, unique, -NO_SUCH_CALL, &[]),
        }
    }
    unanswered.into_iter().for_each(|unique| answer(&mut device, unique, -NO_SUCH_FILE, &[]));
}

fn answer(device: &mut File, unique: u64, error: i32, body: &[u8]) {
    let length = 16 + body.len() as u32;
    let head = [&length.to_le_bytes()[..], &error.to_le_bytes(), &unique.to_le_bytes(), body].concat();
    // Who asked may have gone.
    let _ = device.write_all(&head);
}

/// `fuse_init_out`: version 7.31, and what is usual.
fn welcome() -> Vec<u8> {
    let words: [u32; 16] = [7, 31, LARGEST, 0, 9 << 16 | 12, LARGEST, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0];
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// `fuse_attr_out` of the only folder. The kernel is to ask again at once.
fn folder() -> Vec<u8> {
    let (valid, attributes) = ([0u64; 2], [1u64, 0, 0, 0, 0, 0]);
    let numbers: [u32; 10] = [0, 0, 0, 0o40755, 1, 0, 0, 0, 4096, 0];
    let long = valid.iter().chain(&attributes).flat_map(|word| word.to_le_bytes());
    long.chain(numbers.iter().flat_map(|word| word.to_le_bytes())).collect()
}

/// `fuse_dirent`: `a.sock`, a socket.
fn entry() -> Vec<u8> {
    let name = b"a.sock\0\0";
    let head = [2u64.to_le_bytes(), 1u64.to_le_bytes()].concat();
    [&head[..], &6u32.to_le_bytes(), &12u32.to_le_bytes(), name].concat()
}
