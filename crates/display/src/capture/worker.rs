//! The thread that writes files, started with the first picture.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use device::guest_log;
use protocol::{Format, MAX_SCANOUTS};

use crate::pixels::append_rgb;

/// A picture for a file.
#[derive(Debug)]
pub(super) struct Picture {
    pub(super) path: PathBuf,
    pub(super) format: Format,
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) pixels: Vec<u8>,
}

/// What lies between the two threads: for each head one picture at most.
#[derive(Debug, Default)]
struct Desk {
    next: [Option<Picture>; MAX_SCANOUTS as usize],
    spare: Option<Vec<u8>>,
    closed: bool,
}

#[derive(Debug, Default)]
struct Shared {
    desk: Mutex<Desk>,
    news: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes pictures. Dropping it waits until those that it has are written.
#[derive(Debug, Default)]
pub(super) struct Worker {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Memory of a picture that is written.
    pub(super) fn spare(&self) -> Vec<u8> {
        self.shared.lock().spare.take().unwrap_or_default()
    }

    /// Leaves a picture, in the place of one that was not begun.
    pub(super) fn write(&mut self, head: usize, picture: Picture) {
        let mut desk = self.shared.lock();
        if let Some(place) = desk.next.get_mut(head)
            && let Some(older) = place.replace(picture)
        {
            desk.spare = Some(older.pixels);
        }
        drop(desk);
        self.shared.news.notify_one();
        if self.thread.is_none() {
            let shared = self.shared.clone();
            let thread = std::thread::Builder::new().name("capture".to_owned()).spawn(move || run(&shared));
            match thread {
                Ok(thread) => self.thread = Some(thread),
                Err(error) => guest_log!(error, "Cannot start the thread that writes PNG files: {error}"),
            }
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.news.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic there was told by itself.
            let _ = thread.join();
        }
    }
}

fn run(shared: &Shared) {
    let mut file = Vec::new();
    let mut desk = shared.lock();
    loop {
        match desk.next.iter_mut().find_map(Option::take) {
            Some(picture) => {
                drop(desk);
                if let Err(error) = save(&picture, &mut file) {
                    guest_log!(error, "Cannot write {}: {error}", picture.path.display());
                }
                desk = shared.lock();
                desk.spare = Some(picture.pixels);
            }
            None if desk.closed => return,
            None => desk = shared.news.wait(desk).unwrap_or_else(PoisonError::into_inner),
        }
    }
}

/// Writes a file beside the one that is meant, and puts it in its place.
fn save(picture: &Picture, rgb: &mut Vec<u8>) -> std::io::Result<()> {
    rgb.clear();
    append_rgb(picture.format, &picture.pixels, rgb);
    let beside = beside(&picture.path);
    let written = File::create(&beside).and_then(|file| encode(picture, rgb, file));
    written.and_then(|()| std::fs::rename(&beside, &picture.path)).inspect_err(|_| {
        let _ = std::fs::remove_file(&beside);
    })
}

fn beside(path: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}", std::process::id()));
    path.with_file_name(name)
}

fn encode(picture: &Picture, rgb: &[u8], file: File) -> std::io::Result<()> {
    let mut file = BufWriter::new(file);
    let mut encoder = png::Encoder::new(&mut file, picture.width, picture.height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::Fast);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(rgb)?;
    writer.finish()?;
    file.flush()
}
