//! A device without a guest: shows a moving pattern through the seam, to try a viewer by hand.
//!
//! `cargo run -p beamsplit-viewer --example pattern -- --web 8080 --vnc 5900 [--window] [--size 1920x1080] [--frames 30] [--still]
//! [--touch]`
//!
//! It keeps the listening sockets, runs the viewer as a child process and starts it again when it is killed, as a supervisor does.
//! Prints what people do, and once in ten seconds what passed.

#![allow(clippy::unwrap_used)]

use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use clap::Parser;
use frames::{Cursor, DeviceEnd, DeviceEvent, Format, Geometry, InputEnd, Rect, ScreenLayout, SharedImage};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{FdFlags, fcntl_setfd};
use viewer::ListenAddress;

#[derive(Parser)]
struct Pattern {
    /// Serve the web page here
    #[arg(long, default_value = "8080")]
    web: Vec<ListenAddress>,
    /// Listen for VNC clients here
    #[arg(long)]
    vnc: Vec<ListenAddress>,
    /// Size of the screen
    #[arg(long, default_value = "1280x800", value_parser = size)]
    size: (u32, u32),
    /// Pictures a second
    #[arg(long, default_value_t = 30)]
    frames: u32,
    /// Every pixel moves, as in a film
    #[arg(long)]
    film: bool,
    /// Nothing moves
    #[arg(long)]
    still: bool,
    /// There is a touch screen
    #[arg(long)]
    touch: bool,
    /// The file with the tokens
    #[arg(long)]
    tokens: Option<String>,
    /// Open a window: fullscreen[=MONITOR] for all of a monitor
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "plain")]
    window: Option<String>,
}

#[derive(Parser)]
struct ViewerOnly {
    #[command(flatten)]
    args: viewer::Args,
}

fn size(text: &str) -> Result<(u32, u32), String> {
    let (width, height) = text.split_once('x').ok_or("WIDTHxHEIGHT")?;
    Ok((width.parse().map_err(|_| "width")?, height.parse().map_err(|_| "height")?))
}

fn main() {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    // The child is this program again.
    if std::env::args().nth(1).as_deref() == Some("viewer") {
        let options =
            ViewerOnly::parse_from(std::env::args().skip(1)).args.open().unwrap_or_else(|error| panic!("{error}"));
        return viewer::run(options).unwrap_or_else(|error| panic!("{error}"));
    }
    device(Pattern::parse());
}

fn start(words: &[String]) -> Child {
    Command::new(std::env::current_exe().unwrap()).arg("viewer").args(words).spawn().unwrap()
}

/// Words of a viewer for a socket that it inherits.
fn lend(option: &str, socket: &impl AsFd) -> [String; 2] {
    fcntl_setfd(socket, FdFlags::empty()).unwrap();
    [option.to_owned(), socket.as_fd().as_raw_fd().to_string()]
}

/// An input device, and the other end of its socket.
fn input() -> (InputEnd, OwnedFd) {
    let (ours, theirs) = frames::pair().unwrap();
    (InputEnd::new(ours).unwrap(), theirs)
}

fn listen(addresses: &[ListenAddress]) -> Vec<TcpListener> {
    let open = |address: &ListenAddress| address.bind().unwrap_or_else(|error| panic!("{error}")).into_socket();
    addresses.iter().map(open).collect()
}

fn device(pattern: Pattern) {
    let (ours, theirs) = frames::pair().unwrap();
    let (web, vnc) = (listen(&pattern.web), listen(&pattern.vnc));
    let (mut console, keys) = input();
    let (mut screen, fingers) = input();
    let mut words = [lend("--fd", &theirs), lend("--input-fd", &keys)].concat();
    words.extend(web.iter().flat_map(|socket| lend("--web-fd", socket)));
    words.extend(vnc.iter().flat_map(|socket| lend("--vnc-fd", socket)));
    words.extend(pattern.touch.then(|| lend("--touch-fd", &fingers)).into_iter().flatten());
    words.extend(pattern.window.iter().map(|spec| format!("--window={spec}")));
    words.extend(pattern.tokens.iter().flat_map(|file| ["--tokens".to_owned(), file.clone()]));
    let mut child = start(&words);
    let mut device = DeviceEnd::new(ours, "pattern", 1).unwrap();
    let mut stage = Stage::new(pattern.size);
    stage.show(&mut device);
    let interval = Duration::from_secs(1) / pattern.frames.max(1);
    let (mut next, mut report) = (Instant::now(), Instant::now() + Duration::from_secs(10));
    let mut turn = 0;
    loop {
        let now = Instant::now();
        if now >= next {
            next = (next + interval).max(now);
            turn += 1;
            match (pattern.still, pattern.film) {
                (true, _) => {}
                (_, true) => stage.film(turn, &mut device),
                _ => stage.bounce(turn, &mut device),
            }
        }
        if now >= report {
            report += Duration::from_secs(10);
            println!("{:?}", device.counters());
        }
        if child.try_wait().unwrap().is_some() {
            println!("The viewer went: another one");
            child = start(&words);
        }
        let rest = next.saturating_duration_since(Instant::now());
        let rest = Timespec { tv_sec: rest.as_secs() as i64, tv_nsec: rest.subsec_nanos().into() };
        let wanted = if device.wants_write() { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
        let mut waited = [
            PollFd::from_borrowed_fd(device.as_fd(), wanted),
            PollFd::from_borrowed_fd(console.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(screen.as_fd(), PollFlags::IN),
        ];
        let _ = poll(&mut waited, Some(&rest));
        let mut done = Vec::new();
        console.poll(&mut done);
        screen.poll(&mut done);
        done.iter().for_each(|event| println!("{event:?}"));
        for event in device.poll() {
            println!("{event:?}");
            if let DeviceEvent::Resize(wish) = event {
                let old = stage;
                stage = Stage::new((wish.width, wish.height));
                stage.show(&mut device);
                device.forget(&old.image);
            }
        }
    }
}

/// A picture and a square that bounces in it.
struct Stage {
    image: SharedImage,
    geometry: Geometry,
}

const SQUARE: u32 = 120;

impl Stage {
    fn new((width, height): (u32, u32)) -> Self {
        let geometry = Geometry::packed(width, height, Format::B8G8R8X8);
        let stage = Self { image: SharedImage::create(u64::from(width) * u64::from(height) * 4).unwrap(), geometry };
        stage.paint(geometry.rect(), |x, y| stage.ground(x, y));
        stage
    }

    fn show(&self, device: &mut DeviceEnd) {
        device.layout(0, ScreenLayout { enabled: true, rect: self.geometry.rect() });
        device.show(0, &self.image, self.geometry).unwrap();
        let pixels =
            (0..32 * 32).flat_map(|at| if at % 32 <= at / 32 { [0x80, 0x80, 0, 0x80] } else { [0; 4] }).collect();
        device.cursor(0, Some(Cursor { width: 32, height: 32, hot_x: 0, hot_y: 0, pixels })).unwrap();
    }

    /// Eight bars, a grid, and corners of one pixel each.
    fn ground(&self, x: u32, y: u32) -> u32 {
        let Geometry { width, height, .. } = self.geometry;
        if x == 0 || y == 0 || x == width - 1 || y == height - 1 {
            return 0x00ff_ffff;
        }
        let bar = x * 8 / width;
        let shade = 96 + y * 128 / height;
        let part = |bit: u32| if bar >> bit & 1 == 0 { shade } else { 16 };
        if x.is_multiple_of(64) || y.is_multiple_of(64) { 0x0040_4040 } else { part(1) << 16 | part(2) << 8 | part(0) }
    }

    fn paint(&self, rect: Rect, colour: impl Fn(u32, u32) -> u32) {
        let rect = rect.clipped(self.geometry.width, self.geometry.height);
        for y in rect.y..rect.bottom() {
            let row: Vec<u8> = (rect.x..rect.right()).flat_map(|x| colour(x, y).to_le_bytes()).collect();
            let offset = (y * self.geometry.stride + rect.x * 4) as usize;
            self.image.slice().unwrap().offset(offset).unwrap().copy_from(&row);
        }
    }

    fn bounce(&mut self, turn: u32, device: &mut DeviceEnd) {
        let place = |turn: u32| {
            let swing = |at: u32, room: u32| if (at / room).is_multiple_of(2) { at % room } else { room - at % room };
            let (width, height) =
                (self.geometry.width.saturating_sub(SQUARE), self.geometry.height.saturating_sub(SQUARE));
            (swing(turn * 7, width.max(1)), swing(turn * 5, height.max(1)))
        };
        let ((old_x, old_y), (x, y)) = (place(turn - 1), place(turn));
        let (old, new) = (Rect::new(old_x, old_y, SQUARE, SQUARE), Rect::new(x, y, SQUARE, SQUARE));
        self.paint(
            old.union(&new),
            |x, y| if new.contains(&Rect::new(x, y, 1, 1)) { 0x00ff_ffff } else { self.ground(x, y) },
        );
        device.damage(0, old.union(&new));
        device.move_cursor(0, (self.geometry.width - x) as i32, y as i32);
    }

    fn film(&mut self, turn: u32, device: &mut DeviceEnd) {
        self.paint(self.geometry.rect(), |x, y| {
            let noise = (x * 7919 + y * 104_729 + turn * 31).wrapping_mul(2_654_435_761) >> 29;
            u32::from_be_bytes([
                0,
                ((x + turn * 3) / 8 + noise) as u8,
                (y / 4 + turn) as u8,
                (x * y / 512 + noise) as u8,
            ])
        });
        device.damage(0, self.geometry.rect());
    }
}
