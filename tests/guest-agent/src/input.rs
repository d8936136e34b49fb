//! What comes out of the guest's input devices, as its kernel tells every program: the event nodes.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use guest_agent::{EVENT_BYTES, InputDevice, InputEvent};

/// `struct input_event` of 64 bits: two words of time, type, code, value.
const KERNEL_EVENT_BYTES: usize = 24;

/// Event nodes that are read.
#[derive(Default)]
pub struct Inputs(Mutex<BTreeMap<String, Watch>>);

/// Events of one node that nobody asked for yet.
type Pending = Arc<Mutex<Vec<u8>>>;

struct Watch {
    file: File,
    pending: Pending,
}

impl Inputs {
    /// The devices that have an event node.
    pub fn devices() -> Result<Vec<InputDevice>> {
        let mut devices = Vec::new();
        for entry in fs::read_dir("/sys/class/input").context("The guest's kernel has no input devices")?.flatten() {
            let node = entry.file_name().to_string_lossy().into_owned();
            if node.starts_with("event") {
                let device = entry.path().join("device");
                let read = |name: &str| fs::read_to_string(device.join(name)).map(|text| text.trim().to_owned());
                devices.push(InputDevice {
                    name: read("name")?,
                    serial: read("uniq")?,
                    id: [read("id/bustype")?, read("id/vendor")?, read("id/product")?].join(":"),
                    capabilities: capabilities(&device)?,
                    node,
                });
            }
        }
        devices.sort_by(|left, right| left.node.cmp(&right.node));
        Ok(devices)
    }

    /// Keeps what a node says from now on.
    pub fn watch(&self, node: &str) -> Result<()> {
        let path = Path::new("/dev/input").join(node);
        let file = OpenOptions::new().read(true).write(true).open(&path);
        let file = file.with_context(|| format!("Cannot open {}", path.display()))?;
        let (mut reader, pending) = (file.try_clone()?, Pending::default());
        let filled = pending.clone();
        std::thread::spawn(move || {
            let mut bytes = [0; 64 * KERNEL_EVENT_BYTES];
            // It ends with its device.
            while let Ok(length @ 1..) = reader.read(&mut bytes) {
                let events = bytes[..length].chunks_exact(KERNEL_EVENT_BYTES).filter_map(event);
                let mut filled = lock(&filled);
                events.for_each(|event| filled.extend(event.to_bytes()));
            }
        });
        lock(&self.0).insert(node.to_owned(), Watch { file, pending });
        Ok(())
    }

    /// What a watched node said since this was asked last.
    pub fn events(&self, node: &str) -> Result<Vec<u8>> {
        let watches = lock(&self.0);
        let watch = watches.get(node).with_context(|| format!("{node} is not watched"))?;
        let mut pending = lock(&watch.pending);
        // Whole events, as many as one answer may have.
        let most = guest_agent::MAX_BYTES as usize / EVENT_BYTES * EVENT_BYTES;
        let rest = pending.len().min(most);
        let later = pending.split_off(rest);
        Ok(std::mem::replace(&mut *pending, later))
    }

    /// Says something to a watched node's device, as a program that sets a light does.
    pub fn tell(&self, node: &str, event: &InputEvent) -> Result<()> {
        let mut watches = lock(&self.0);
        let watch = watches.get_mut(node).with_context(|| format!("{node} is not watched"))?;
        let mut bytes = [0; KERNEL_EVENT_BYTES];
        bytes[16..18].copy_from_slice(&event.kind.to_ne_bytes());
        bytes[18..20].copy_from_slice(&event.code.to_ne_bytes());
        bytes[20..].copy_from_slice(&event.value.to_ne_bytes());
        watch.file.write_all(&bytes).with_context(|| format!("{node} does not listen"))
    }
}

/// What a device can do, as its driver said: a bit map for each type of event, and its properties.
fn capabilities(device: &Path) -> Result<BTreeMap<String, String>> {
    let mut all = BTreeMap::from([("properties".to_owned(), fs::read_to_string(device.join("properties"))?)]);
    for entry in fs::read_dir(device.join("capabilities"))?.flatten() {
        all.insert(entry.file_name().to_string_lossy().into_owned(), fs::read_to_string(entry.path())?);
    }
    all.values_mut().for_each(|bits| *bits = bits.trim().to_owned());
    Ok(all)
}

fn event(bytes: &[u8]) -> Option<InputEvent> {
    let half = |at: usize| Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?));
    let word = |at: usize| Some(i64::from_ne_bytes(*bytes.get(at..)?.first_chunk()?));
    let value = i32::from_ne_bytes(*bytes.get(20..)?.first_chunk()?);
    let micros = word(0)? * 1_000_000 + word(8)?;
    Some(InputEvent { micros: micros.cast_unsigned(), kind: half(16)?, code: half(18)?, value })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
