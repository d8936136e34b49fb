//! A device without a guest: it shows still pictures to a viewer process, and hears what people do there. It starts viewers as
//! a launcher does, so that they can be killed.

use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use frames::{
    Cursor, DeviceEnd, DeviceEvent, Format, Geometry, InputEnd, InputEvent, Leds, ModeRequest, Rect, ScreenLayout,
    SharedImage,
};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{FdFlags, fcntl_setfd};

use crate::picture::Picture;
use crate::process::{self, Process};
use crate::progress::say;
use crate::{bed, workspace};

/// Seconds that something may take on a machine that stands still for a while.
const PATIENCE: u64 = 60;

/// What a stage has.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Heads, each of 1024x768 at first.
    pub heads: u32,
    /// A keyboard and a pointer.
    pub input: bool,
    /// A touch screen.
    pub touch: bool,
    /// The file with the tokens.
    pub tokens: Option<&'static str>,
    /// More words for the viewer.
    pub words: Vec<String>,
    /// The display server for its windows: the viewer runs in the bed, where all that they load is.
    pub display: Option<Vec<(&'static str, String)>>,
}

impl Default for Setting {
    fn default() -> Self {
        Self { heads: 1, input: true, touch: false, tokens: None, words: Vec::new(), display: None }
    }
}

/// An input device, and what came for it.
struct Input {
    end: Mutex<InputEnd>,
    events: Mutex<Receiver<InputEvent>>,
}

/// The device's side, and a viewer process.
pub struct Stage {
    device: Arc<Mutex<DeviceEnd>>,
    images: Vec<Option<(SharedImage, Geometry)>>,
    console: Option<Arc<Input>>,
    touch: Option<Arc<Input>>,
    wishes: Receiver<ModeRequest>,
    words: Vec<String>,
    display: Option<Vec<(&'static str, String)>>,
    listener: TcpListener,
    viewer: Option<Process>,
    /// What viewers inherit.
    _sockets: Vec<OwnedFd>,
    dir: tempfile::TempDir,
}

impl Stage {
    /// Sets it up and starts a viewer.
    pub fn new(setting: &Setting) -> Result<Self> {
        let dir = workspace::scratch("stage-")?;
        let (ours, theirs) = frames::pair()?;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let mut words = vec!["viewer".to_owned()];
        let mut sockets = Vec::new();
        let mut lend = |option: &str, socket: OwnedFd| -> Result<()> {
            fcntl_setfd(&socket, FdFlags::empty())?;
            words.extend([option.to_owned(), socket.as_raw_fd().to_string()]);
            sockets.push(socket);
            Ok(())
        };
        lend("--fd", theirs)?;
        lend("--web-fd", listener.as_fd().try_clone_to_owned()?)?;
        let mut input = |wanted: bool, option| -> Result<_> {
            if !wanted {
                return Ok(None);
            }
            let (ours, theirs) = frames::pair()?;
            lend(option, theirs)?;
            hear_input(InputEnd::new(ours)?).map(Some)
        };
        let (console, touch) = (input(setting.input, "--input-fd")?, input(setting.touch, "--touch-fd")?);
        let device = Arc::new(Mutex::new(DeviceEnd::new(ours, "stage", setting.heads as usize)?));
        let wishes = hear_wishes(&device)?;
        let images = (0..setting.heads).map(|_| None).collect();
        words.extend(setting.words.iter().cloned());
        let (display, viewer, _sockets) = (setting.display.clone(), None, sockets);
        let mut stage =
            Self { device, images, console, touch, wishes, words, display, listener, viewer, _sockets, dir };
        if let Some(tokens) = setting.tokens {
            stage.write_tokens(tokens)?;
            let file = stage.tokens_file().display().to_string();
            stage.words.extend(["--tokens".to_owned(), file]);
        }
        for head in 0..setting.heads {
            stage.show(head, 1024, 768)?;
        }
        stage.start()?;
        Ok(stage)
    }

    /// Kills the viewer.
    pub fn kill(&mut self) {
        self.viewer = None;
    }

    /// Starts a viewer; one that runs is killed.
    pub fn start(&mut self) -> Result<()> {
        self.kill();
        let program = workspace::binary("beamsplit")?;
        let mut command = match &self.display {
            None => Command::new(program),
            Some(_) => bed::run::inside(bed::window()?, program.to_str().context("A path without a name")?),
        };
        for variable in ["DISPLAY", "WAYLAND_DISPLAY", "WAYLAND_SOCKET", "XAUTHORITY"] {
            command.env_remove(variable);
        }
        command.envs(self.display.iter().flatten().map(|(name, value)| (name, value)));
        command.args(&self.words).env("BEAMSPLIT_NOVNC_DIR", bed::page()?.file("usr/share/novnc"));
        self.viewer = Some(Process::spawn(command, "viewer", &self.dir.path().join("log"))?);
        Ok(())
    }

    /// The viewer, while one runs.
    pub fn viewer(&mut self) -> Option<u32> {
        let viewer = self.viewer.as_mut()?;
        viewer.is_running().then(|| viewer.id())
    }

    /// What the viewer logged so far.
    pub fn log(&self) -> Result<String> {
        Ok(fs::read_to_string(self.dir.path().join("log"))?)
    }

    /// Where the page is.
    pub fn web(&self) -> Result<SocketAddr> {
        Ok(self.listener.local_addr()?)
    }

    fn tokens_file(&self) -> PathBuf {
        self.dir.path().join("tokens")
    }

    /// Writes the file with the tokens.
    pub fn write_tokens(&self, text: &str) -> Result<()> {
        let mut file = fs::OpenOptions::new();
        file.write(true).create(true).truncate(true).mode(0o600);
        let mut file = file.open(self.tokens_file()).context("Cannot open the file with the tokens")?;
        file.write_all(text.as_bytes()).context("Cannot write the tokens")
    }

    fn device(&self) -> MutexGuard<'_, DeviceEnd> {
        self.device.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows a picture of a size on a head: no two neighbours have one colour.
    pub fn show(&mut self, head: u32, width: u32, height: u32) -> Result<Picture> {
        let colour = |x: u32, y: u32| [(x * 255 / width) as u8, (y * 255 / height) as u8, 64 + head as u8 * 60, 0];
        let bytes: Vec<u8> = (0..height).flat_map(|y| (0..width).flat_map(move |x| colour(x, y))).collect();
        let geometry = Geometry::packed(width, height, Format::B8G8R8X8);
        let image = SharedImage::create(bytes.len() as u64).context("No memory for a picture")?;
        image.slice().context("No memory for a picture")?.copy_from(&bytes);
        let mut device = self.device();
        device.layout(head, ScreenLayout { enabled: true, rect: geometry.rect() });
        device.show(head, &image, geometry)?;
        drop(device);
        if let Some(place) = self.images.get_mut(head as usize) {
            *place = Some((image, geometry));
        }
        Picture::from_xrgb(width, height, &bytes)
    }

    /// Fills a part of what a head shows.
    pub fn fill(&mut self, head: u32, part: Rect, [red, green, blue]: [u8; 3]) -> Result<()> {
        let image = self.images.get(head as usize).and_then(Option::as_ref).context("The head shows nothing")?;
        let geometry = image.1;
        let part = part.clipped(geometry.width, geometry.height);
        let row = [blue, green, red, 0].repeat(part.width as usize);
        for y in part.y..part.bottom() {
            let start = (y * geometry.stride + part.x * Format::BYTES) as usize;
            image.0.slice().context("No memory of ours")?.offset(start)?.copy_from(&row);
        }
        self.device().damage(head, part);
        Ok(())
    }

    /// How many updates went to viewers, and whether they wait for one more of a head.
    pub fn frames(&self, head: u32) -> (u64, bool) {
        let device = self.device();
        (device.counters().frames, device.is_awaited(head))
    }

    /// The guest has another cursor, or none.
    pub fn cursor(&self, head: u32, cursor: Option<Cursor>) -> Result<()> {
        Ok(self.device().cursor(head, cursor)?)
    }

    /// The guest sets the lights of its keyboard.
    pub fn leds(&self, leds: Leds) -> Result<()> {
        let console = self.console.as_ref().context("No keyboard")?;
        console.end.lock().unwrap_or_else(PoisonError::into_inner).leds(leds);
        Ok(())
    }

    /// What people did with the keyboard and the pointer, up to and with an event that is waited for.
    pub fn typed_until(&self, last: InputEvent) -> Result<Vec<InputEvent>> {
        until(self.console.as_deref(), last)
    }

    /// The next thing that people did with their fingers.
    pub fn touched(&self) -> Result<InputEvent> {
        let events = &self.touch.as_ref().context("No touch screen")?.events;
        let events = events.lock().unwrap_or_else(PoisonError::into_inner);
        events.recv_timeout(Duration::from_secs(PATIENCE)).context("No finger did anything")
    }

    /// What people did since, as far as it has come.
    pub fn typed(&self) -> Result<Vec<InputEvent>> {
        let events = &self.console.as_ref().context("No keyboard")?.events;
        Ok(events.lock().unwrap_or_else(PoisonError::into_inner).try_iter().collect())
    }

    /// The next wish for another size.
    pub fn wish(&self) -> Result<ModeRequest> {
        self.wishes.recv_timeout(Duration::from_secs(PATIENCE)).context("Nobody wished for another size")
    }
}

fn until(input: Option<&Input>, last: InputEvent) -> Result<Vec<InputEvent>> {
    let events = &input.context("No such device")?.events;
    let events = events.lock().unwrap_or_else(PoisonError::into_inner);
    let mut heard = Vec::new();
    while heard.last() != Some(&last) {
        match events.recv_timeout(Duration::from_secs(PATIENCE)) {
            Ok(event) => heard.push(event),
            Err(_) => bail!("{last:?} did not come, but {heard:?}"),
        }
    }
    Ok(heard)
}

fn hear_input(end: InputEnd) -> Result<Arc<Input>> {
    let fd = end.as_fd().try_clone_to_owned()?;
    let (sender, events) = channel();
    let input = Arc::new(Input { end: Mutex::new(end), events: Mutex::new(events) });
    let heard = Arc::downgrade(&input);
    thread::spawn(move || {
        while poll(&mut [PollFd::new(&fd, PollFlags::IN)], None).is_ok() {
            let Some(input) = heard.upgrade() else { return };
            let mut some = Vec::new();
            input.end.lock().unwrap_or_else(PoisonError::into_inner).poll(&mut some);
            if some.into_iter().any(|event| sender.send(event).is_err()) {
                return;
            }
        }
    });
    Ok(input)
}

fn hear_wishes(device: &Arc<Mutex<DeviceEnd>>) -> Result<Receiver<ModeRequest>> {
    let fd = device.lock().unwrap_or_else(PoisonError::into_inner).as_fd().try_clone_to_owned()?;
    let (sender, wishes) = channel();
    let heard = Arc::downgrade(device);
    thread::spawn(move || {
        loop {
            let Some(device) = heard.upgrade() else { return };
            let (events, full) = {
                let mut device = device.lock().unwrap_or_else(PoisonError::into_inner);
                (device.poll(), device.wants_write())
            };
            drop(device);
            for event in events {
                match event {
                    DeviceEvent::Resize(wish) if sender.send(wish).is_err() => return,
                    DeviceEvent::Closed => return,
                    _ => {}
                }
            }
            let wanted = if full { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
            if poll(&mut [PollFd::new(&fd, wanted)], None).is_err() {
                return;
            }
        }
    });
    Ok(wishes)
}

impl Drop for Stage {
    fn drop(&mut self) {
        if process::fails() {
            say(format_args!("The viewer's log:\n    {}", self.log().unwrap_or_default().replace('\n', "\n    ")));
        }
    }
}
