//! Drawing through KMS: dumb buffers, modes, flips, cursors, by real ioctls on one card.
//!
//! Cursors go by the old ioctls, as Xorg's do; weston covers the planes.
#![expect(deprecated)]

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Context, Result, ensure};
use drm::Device as _;
use drm::buffer::{Buffer, DrmFourcc};
use drm::control::dumbbuffer::DumbBuffer;
use drm::control::{ClipRect, Device as _, Mode, PageFlipFlags, connector, crtc, framebuffer};
use guest_agent::{Draw, Head, Reply};
use rustix::rand::{GetRandomFlags, getrandom};

use crate::scene::Scene;

const CURSOR: (u32, u32) = (64, 64);

/// The card, as long as something is drawn.
#[derive(Default)]
pub struct Screens {
    number: AtomicU32,
    card: Arc<Mutex<Option<Card>>>,
    animation: Mutex<Option<Animation>>,
}

struct Animation {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

/// An open card of which this process is the master, and what is shown on it.
struct Card {
    file: File,
    shown: BTreeMap<u32, Shown>,
    random: Random,
}

/// What a head shows.
struct Shown {
    crtc: crtc::Handle,
    buffer: Framebuffer,
    cursor: Option<DumbBuffer>,
}

struct Framebuffer {
    dumb: DumbBuffer,
    id: framebuffer::Handle,
}

impl AsFd for Card {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl drm::Device for Card {}
impl drm::control::Device for Card {}

impl Screens {
    /// Takes another card from now on.
    pub fn take(&self, number: u32) -> Result<()> {
        self.draw(Draw::Release)?;
        self.number.store(number, Ordering::Relaxed);
        Ok(())
    }

    fn open(&self) -> Result<Card> {
        Card::open(self.number.load(Ordering::Relaxed))
    }

    /// The heads of the card.
    pub fn heads(&self) -> Result<Vec<Head>> {
        match &*lock(&self.card) {
            Some(card) => card.heads(),
            None => self.open()?.heads(),
        }
    }

    /// Draws, and answers with what was drawn.
    pub fn draw(&self, draw: Draw) -> Result<(Reply, Vec<u8>)> {
        self.stop_animation();
        if draw == Draw::Release {
            *lock(&self.card) = None;
            return Ok((Reply::Done, Vec::new()));
        }
        if draw == Draw::Animate {
            self.animate("")?;
            return Ok((Reply::Done, Vec::new()));
        }
        let mut slot = lock(&self.card);
        let card = match &mut *slot {
            Some(card) => card,
            empty => empty.insert(self.open()?),
        };
        let drawn = card.draw(draw)?;
        Ok(match drawn {
            Some(((width, height), pixels)) => (Reply::Drawn { width, height }, pixels),
            None => (Reply::Done, Vec::new()),
        })
    }

    fn stop_animation(&self) {
        if let Some(animation) = lock(&self.animation).take() {
            animation.stop.store(true, Ordering::Relaxed);
            let _ = animation.thread.join();
        }
    }

    /// Draws the moving picture on each head, with a line for those who look.
    pub fn animate(&self, hint: &str) -> Result<()> {
        *lock(&self.card) = None;
        let mut card = self.open()?;
        let heads = card.heads()?;
        let mut scenes = Vec::new();
        for (head, info) in (0..).zip(&heads) {
            if let (true, Some((width, height, _))) = (info.connected, info.modes.first().copied()) {
                let scene = Scene::new(width, height, hint).context("Mode without pixels")?;
                card.show(head, (width, height), scene.background())?;
                scenes.push((head, scene));
            }
        }
        ensure!(!scenes.is_empty(), "No head is connected");
        *lock(&self.card) = Some(card);
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, shared) = (Arc::clone(&stop), Arc::clone(&self.card));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                for (head, scene) in &mut scenes {
                    if let Some(card) = &mut *lock(&shared)
                        && let Err(error) = card.step(*head, scene)
                    {
                        println!("guest agent: animation: {error:#}");
                    }
                }
                std::thread::sleep(std::time::Duration::from_millis(33));
            }
        });
        *lock(&self.animation) = Some(Animation { stop, thread });
        Ok(())
    }
}

type Pixels = ((u32, u32), Vec<u8>);

impl Card {
    fn open(number: u32) -> Result<Self> {
        let mut nodes: Vec<_> = fs::read_dir("/dev/dri").context("No DRM device")?.flatten().collect();
        nodes.retain(|node| node.file_name().to_string_lossy().starts_with("card"));
        nodes.sort_by_key(fs::DirEntry::file_name);
        let node = nodes.get(number as usize).with_context(|| format!("No DRM card {number}"))?.path();
        let file = OpenOptions::new().read(true).write(true).open(&node)?;
        let card = Card { file, shown: BTreeMap::new(), random: Random::new()? };
        // Opening made this process the master, unless somebody else is; then this says who refuses.
        card.acquire_master_lock().with_context(|| format!("{} has another master", node.display()))?;
        Ok(card)
    }

    fn heads(&self) -> Result<Vec<Head>> {
        let mut heads = Vec::new();
        for handle in self.resource_handles()?.connectors() {
            let info = self.get_connector(*handle, true)?;
            heads.push(Head {
                name: info.to_string(),
                connected: info.state() == connector::State::Connected,
                modes: info
                    .modes()
                    .iter()
                    .map(|mode| (mode.size().0.into(), mode.size().1.into(), mode.vrefresh()))
                    .collect(),
                edid: self.edid(*handle)?,
            });
        }
        Ok(heads)
    }

    /// The EDID of a connector. It may be replaced by another, under another number, while it is asked for.
    fn edid(&self, connector: connector::Handle) -> Result<Vec<u8>> {
        for _ in 0..100 {
            let properties = self.get_properties(connector)?;
            let mut values = properties.iter();
            let edid =
                values.find(|(id, _)| self.get_property(**id).is_ok_and(|info| info.name().to_bytes() == b"EDID"));
            match edid {
                None | Some((_, 0)) => return Ok(Vec::new()),
                Some((_, blob)) => match self.get_property_blob(*blob) {
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                    bytes => return Ok(bytes?),
                },
            }
        }
        anyhow::bail!("The EDID changes all the time")
    }

    fn draw(&mut self, draw: Draw) -> Result<Option<Pixels>> {
        match draw {
            Draw::Show { head, width, height } => {
                let noise = self.random.pixels(width, height);
                self.show(head, (width, height), &noise)?;
                self.read_back(head).map(Some)
            }
            Draw::Damage { head, rect: [x, y, width, height] } => {
                let noise = self.random.pixels(width, height);
                self.fill(head, (x, y), (width, height), &noise)?;
                self.flush(head, (x, y), (width, height))?;
                self.read_back(head).map(Some)
            }
            Draw::Flip { head } => {
                self.flip(head)?;
                self.read_back(head).map(Some)
            }
            Draw::Cursor { head, hot, at } => self.show_cursor(head, hot, at).map(Some),
            Draw::MoveCursor { head, at: [x, y] } => {
                self.move_cursor(self.shown(head)?.crtc, (x, y))?;
                Ok(None)
            }
            Draw::HideCursor { head } => {
                self.set_cursor2(self.shown(head)?.crtc, None::<&DumbBuffer>, (0, 0))?;
                Ok(None)
            }
            Draw::Animate | Draw::Release => Ok(None),
        }
    }

    /// Sets the mode of a head with a new buffer of these pixels.
    fn show(&mut self, head: u32, size: (u32, u32), pixels: &[u8]) -> Result<()> {
        let resources = self.resource_handles()?;
        let handle = *resources.connectors().get(head as usize).with_context(|| format!("No head {head}"))?;
        let info = self.get_connector(handle, true)?;
        let fits = |mode: &&Mode| (u32::from(mode.size().0), u32::from(mode.size().1)) == size;
        let mode = *info.modes().iter().find(fits).with_context(|| format!("Head {head} has no mode {size:?}"))?;
        let encoder = self.get_encoder(*info.encoders().first().context("Connector without an encoder")?)?;
        let crtcs = resources.filter_crtcs(encoder.possible_crtcs());
        let crtc = *crtcs.first().context("Encoder without a CRTC")?;
        let buffer = self.new_buffer(size, pixels)?;
        self.set_crtc(crtc, Some(buffer.id), (0, 0), &[handle], Some(mode)).context("Cannot set the mode")?;
        let shown = Shown { crtc, buffer, cursor: None };
        if let Some(old) = self.shown.insert(head, shown) {
            self.free(old.buffer);
        }
        Ok(())
    }

    fn new_buffer(&self, size: (u32, u32), pixels: &[u8]) -> Result<Framebuffer> {
        let mut dumb = self.create_dumb_buffer(size, DrmFourcc::Xrgb8888, 32).context("Cannot make a buffer")?;
        copy(&mut self.map_dumb_buffer(&mut dumb)?, 0, size, pixels, size)?;
        let id = self.add_framebuffer(&dumb, 24, 32).context("Cannot make a framebuffer")?;
        Ok(Framebuffer { dumb, id })
    }

    fn free(&self, buffer: Framebuffer) {
        let _ = self.destroy_framebuffer(buffer.id);
        let _ = self.destroy_dumb_buffer(buffer.dumb);
    }

    fn shown(&self, head: u32) -> Result<&Shown> {
        self.shown.get(&head).with_context(|| format!("Head {head} shows nothing yet"))
    }

    fn shown_mut(&mut self, head: u32) -> Result<&mut Shown> {
        self.shown.get_mut(&head).with_context(|| format!("Head {head} shows nothing yet"))
    }

    /// Copies pixels into the shown buffer, unseen by the device until [`Card::flush`].
    fn fill(&mut self, head: u32, at: (u32, u32), size: (u32, u32), pixels: &[u8]) -> Result<()> {
        let mut dumb = self.shown(head)?.buffer.dumb;
        let (width, height) = dumb.size();
        ensure!(at.0 + size.0 <= width && at.1 + size.1 <= height, "Rectangle outside the screen");
        let offset = (at.1 * width + at.0) as usize * 4;
        copy(&mut self.map_dumb_buffer(&mut dumb)?, offset, (width, height), pixels, size)
    }

    fn flush(&self, head: u32, at: (u32, u32), size: (u32, u32)) -> Result<()> {
        let [x1, y1, x2, y2] = [at.0, at.1, at.0 + size.0, at.1 + size.1].map(|edge| edge.min(65535) as u16);
        self.dirty_framebuffer(self.shown(head)?.buffer.id, &[ClipRect::new(x1, y1, x2, y2)])?;
        Ok(())
    }

    fn flip(&mut self, head: u32) -> Result<()> {
        let size = self.shown(head)?.buffer.dumb.size();
        let noise = self.random.pixels(size.0, size.1);
        let buffer = self.new_buffer(size, &noise)?;
        let shown = self.shown(head)?;
        self.page_flip(shown.crtc, buffer.id, PageFlipFlags::EVENT, None).context("Cannot flip")?;
        self.receive_events().context("No event for the flip")?.for_each(drop);
        let old = std::mem::replace(&mut self.shown_mut(head)?.buffer, buffer);
        self.free(old);
        Ok(())
    }

    fn show_cursor(&mut self, head: u32, hot: [i32; 2], at: [i32; 2]) -> Result<Pixels> {
        let noise = self.random.pixels(CURSOR.0, CURSOR.1);
        let mut dumb = self.create_dumb_buffer(CURSOR, DrmFourcc::Argb8888, 32)?;
        copy(&mut self.map_dumb_buffer(&mut dumb)?, 0, CURSOR, &noise, CURSOR)?;
        let crtc = self.shown(head)?.crtc;
        self.move_cursor(crtc, (at[0], at[1]))?;
        self.set_cursor2(crtc, Some(&dumb), (hot[0], hot[1])).context("Cannot set the cursor")?;
        let pixels = self.map_dumb_buffer(&mut dumb)?.to_vec();
        if let Some(old) = self.shown_mut(head)?.cursor.replace(dumb) {
            let _ = self.destroy_dumb_buffer(old);
        }
        Ok((CURSOR, pixels))
    }

    /// The next frame of an animation.
    fn step(&mut self, head: u32, scene: &mut Scene) -> Result<()> {
        for (at, size, pixels) in scene.step() {
            self.fill(head, at, size, &pixels)?;
            self.flush(head, at, size)?;
        }
        Ok(())
    }

    fn read_back(&mut self, head: u32) -> Result<Pixels> {
        let mut dumb = self.shown(head)?.buffer.dumb;
        let size = dumb.size();
        let pitch = dumb.pitch() as usize;
        let mapping = self.map_dumb_buffer(&mut dumb)?;
        let row_bytes = size.0 as usize * 4;
        let mut pixels = Vec::with_capacity(row_bytes * size.1 as usize);
        for row in mapping.chunks(pitch).take(size.1 as usize) {
            pixels.extend_from_slice(row.get(..row_bytes).context("A buffer with short rows")?);
        }
        Ok((size, pixels))
    }
}

impl Drop for Card {
    fn drop(&mut self) {
        for shown in std::mem::take(&mut self.shown).into_values() {
            let _ = self.set_crtc(shown.crtc, None, (0, 0), &[], None);
            self.free(shown.buffer);
        }
    }
}

/// Copies rows of 32-bit pixels into a buffer of another width.
fn copy(to: &mut [u8], offset: usize, to_size: (u32, u32), from: &[u8], from_size: (u32, u32)) -> Result<()> {
    let (to_pitch, from_pitch) = (to_size.0 as usize * 4, from_size.0 as usize * 4);
    for (row, pixels) in from.chunks(from_pitch).enumerate() {
        let start = offset + row * to_pitch;
        to.get_mut(start..start + from_pitch).context("Pixels outside the buffer")?.copy_from_slice(pixels);
    }
    Ok(())
}

/// Noise that no other run has: xorshift from a seed of the kernel's.
struct Random(u64);

impl Random {
    fn new() -> Result<Self> {
        let mut seed = [0; 8];
        // Now, and not when the kernel has gathered enough for secrets, which takes a second after a boot.
        getrandom(&mut seed, GetRandomFlags::INSECURE)?;
        let uptime = std::fs::read_to_string("/proc/uptime")?;
        let mixed = uptime.bytes().fold(u64::from_le_bytes(seed), |mixed, byte| mixed.rotate_left(8) ^ u64::from(byte));
        Ok(Random(mixed | 1))
    }

    fn pixels(&mut self, width: u32, height: u32) -> Vec<u8> {
        let count = width as usize * height as usize * 4;
        let mut bytes = Vec::with_capacity(count + 8);
        while bytes.len() < count {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            bytes.extend(self.0.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
        }
        bytes.truncate(count);
        bytes
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
