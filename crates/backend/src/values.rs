//! The values that options carry: each reads the text a user writes, and refuses what it cannot mean.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use clap::ValueEnum;
use device::input::InputKind;
use protocol::CapsetId;
use serde::{Deserialize, Serialize};

/// The most heads a virtio-gpu has (VIRTIO_GPU_MAX_SCANOUTS).
const MAX_HEADS: usize = 16;
/// The largest side of a head: what a PNG viewer, a VNC client and an 8 GiB image agree on.
const MAX_SIDE: u32 = 16_384;

/// How the VMM's words arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TransportKind {
    /// The rings of one virtio device, served over a Unix socket.
    VhostUser,
    /// A whole PCI display card, served over a Unix socket: boot screen, VGA registers, virtio-gpu.
    VfioUser,
}

/// Which card a guest finds over vfio-user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ModelKind {
    /// virtio-gpu alone, for guests that have its driver: no boot display.
    Virtio,
    /// A boot display and virtio-gpu in one.
    Vga,
    /// A boot display alone, for any guest with a VBE, GOP or bochs driver.
    Bochs,
}

impl fmt::Display for ModelKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ModelKind::Virtio => "virtio",
            ModelKind::Vga => "vga",
            ModelKind::Bochs => "bochs",
        })
    }
}

/// Whether the guest finds something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Switch {
    /// It does.
    On,
    /// It does not.
    Off,
}

/// Which program the guest's firmware finds on the card, for a boot screen under SeaBIOS.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum RomSource {
    /// None.
    None,
    /// The one in this file.
    File(PathBuf),
}

impl FromStr for RomSource {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "" => Err("Name the file, or none".to_owned()),
            "none" => Ok(RomSource::None),
            file => Ok(RomSource::File(file.into())),
        }
    }
}

/// Who makes the pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RendererKind {
    /// Draws in memory.
    Soft,
    /// Draws nothing.
    Null,
    /// Draws 2D in memory, and 3D with libvirglrenderer.
    Virgl,
}

/// How strictly the process locks itself in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SandboxMode {
    /// What the device does not need is refused.
    On,
    /// What the device does not need is done, and reported in the kernel's audit log.
    Log,
    /// Nothing is refused.
    Off,
}

/// One head as the user named it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadSize {
    /// Pixels in a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// Frames a second, when named.
    pub refresh: Option<u32>,
}

/// A list of heads: `1280x800@60,1920x1080`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Heads(pub Vec<HeadSize>);

impl FromStr for Heads {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let heads = text
            .split(',')
            .enumerate()
            .map(|(index, word)| head(word).map_err(|why| format!("Head {}: {why}", index + 1)))
            .collect::<Result<Vec<_>, _>>()?;
        if heads.len() > MAX_HEADS {
            return Err(format!("{} heads, a device has at most {MAX_HEADS}", heads.len()));
        }
        Ok(Heads(heads))
    }
}

fn head(word: &str) -> Result<HeadSize, String> {
    let shape = || format!("'{word}' is not WIDTHxHEIGHT[@REFRESH], as in 1920x1080@60");
    let (size, refresh) = word.split_once('@').map_or((word, None), |(size, refresh)| (size, Some(refresh)));
    let (width, height) = size.split_once('x').ok_or_else(shape)?;
    let side = |text: &str| match text.parse::<u32>() {
        Ok(side) if (1..=MAX_SIDE).contains(&side) => Ok(side),
        Ok(_) => Err(format!("'{word}' has a side outside 1 to {MAX_SIDE}")),
        Err(_) => Err(shape()),
    };
    let refresh = match refresh.map(str::parse::<u32>) {
        None => None,
        Some(Ok(hertz)) => Some(refresh_rate(hertz).map_err(|why| format!("'{word}': {why}"))?),
        Some(Err(_)) => return Err(shape()),
    };
    Ok(HeadSize { width: side(width)?, height: side(height)?, refresh })
}

/// Refuses a refresh rate that no monitor has.
pub fn refresh_rate(hertz: u32) -> Result<u32, String> {
    if (1..=1000).contains(&hertz) { Ok(hertz) } else { Err(format!("Refresh {hertz} is outside 1 to 1000 Hz")) }
}

/// Kinds of 3D: `virgl2,venus`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Capsets(pub Vec<CapsetId>);

/// All that have a name, in the order in which a guest finds them.
pub const CAPSETS: [CapsetId; 4] = [CapsetId::VIRGL, CapsetId::VIRGL2, CapsetId::VENUS, CapsetId::DRM];

impl FromStr for Capsets {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = |word: &str| CAPSETS.into_iter().find(|capset| capset.name() == Some(word));
        let capset = |word| {
            known(word).ok_or_else(|| format!("'{word}' is none of virgl, virgl2, venus, drm, as in virgl2,venus"))
        };
        let mut capsets = text.split(',').map(capset).collect::<Result<Vec<_>, _>>()?;
        capsets.sort_unstable();
        capsets.dedup();
        Ok(Capsets(capsets))
    }
}

/// A number of bytes: `256M`, `1G`, `4096`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Bytes(pub u64);

impl FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (digits, shift) = match text.strip_suffix(['K', 'M', 'G', 'k', 'm', 'g']) {
            Some(digits) if text.ends_with(['K', 'k']) => (digits, 10),
            Some(digits) if text.ends_with(['M', 'm']) => (digits, 20),
            Some(digits) => (digits, 30),
            None => (text, 0),
        };
        // `u64::from_str` takes a sign, which no size has.
        let digits = Some(digits).filter(|digits| digits.starts_with(|first: char| first.is_ascii_digit()));
        digits
            .and_then(|digits| digits.parse::<u64>().ok())
            .and_then(|count| count.checked_mul(1 << shift))
            .map(Bytes)
            .ok_or_else(|| format!("'{text}' is not a number of bytes, as in 256M or 1G"))
    }
}

/// Where people connect, and which head they see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listen {
    /// The address.
    pub address: SocketAddr,
    /// The head.
    pub head: u8,
}

/// Who shows the pixels.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Sink {
    /// The VMM's own window.
    Vmm,
    /// Nobody.
    None,
    /// A PNG file that always holds the newest frame.
    Capture(PathBuf),
    /// VNC clients.
    Vnc(Listen),
    /// Browsers.
    Web(Listen),
    /// A window for each head on the host's desktop.
    Window(Window),
}

/// How a window on the host's desktop begins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Window {
    /// As the desktop likes it.
    #[default]
    Framed,
    /// It fills a monitor: the one of this name or number, else the one it would be on.
    Fullscreen(Option<String>),
}

impl FromStr for Sink {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            None if text == "vmm" => Ok(Sink::Vmm),
            None if text == "none" => Ok(Sink::None),
            None if text == "capture" => Err("Name the file, as in capture=FILE.png".to_owned()),
            None if text == "vnc" || text == "web" => {
                Err(format!("Name the address, {text}=ADDR as in {text}=127.0.0.1:5900"))
            }
            Some(("capture", file)) if !file.is_empty() => Ok(Sink::Capture(PathBuf::from(file))),
            Some(("vnc", place)) => listen(place).map(Sink::Vnc),
            Some(("web", place)) => listen(place).map(Sink::Web),
            _ if text == "window" => Ok(Sink::Window(Window::Framed)),
            _ if text.starts_with("window,") => window(&text["window,".len()..]).map(Sink::Window),
            _ => Err(format!("'{text}' is not one of vmm, none, capture=FILE.png, vnc=ADDR, web=ADDR, window")),
        }
    }
}

impl fmt::Display for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Sink::Vmm => f.write_str("vmm"),
            Sink::None => f.write_str("none"),
            Sink::Capture(file) => write!(f, "capture={}", file.display()),
            Sink::Vnc(listen) => write!(f, "vnc={listen}"),
            Sink::Web(listen) => write!(f, "web={listen}"),
            Sink::Window(Window::Framed) => f.write_str("window"),
            Sink::Window(window) => write!(f, "window,{window}"),
        }
    }
}

/// As `beamsplit viewer --window` reads it.
impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Window::Framed => Ok(()),
            Window::Fullscreen(None) => f.write_str("fullscreen"),
            Window::Fullscreen(Some(monitor)) => write!(f, "fullscreen={monitor}"),
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.head {
            0 => write!(f, "{}", self.address),
            head => write!(f, "{},head={head}", self.address),
        }
    }
}

/// `fullscreen[=MONITOR]`.
fn window(text: &str) -> Result<Window, String> {
    match text.split_once('=') {
        None if text == "fullscreen" => Ok(Window::Fullscreen(None)),
        Some(("fullscreen", monitor)) if !monitor.is_empty() => Ok(Window::Fullscreen(Some(monitor.to_owned()))),
        _ => Err(format!("'window,{text}' is not window, window,fullscreen or window,fullscreen=MONITOR")),
    }
}

/// `ADDR[,head=N]`.
fn listen(text: &str) -> Result<Listen, String> {
    let (address, head) = text.split_once(",head=").unwrap_or((text, "0"));
    let head = head.parse().ok().filter(|head| usize::from(*head) < MAX_HEADS);
    let head = head.ok_or_else(|| format!("'{text}' names no head from 0 to {}", MAX_HEADS - 1))?;
    Ok(Listen { address: listen_address(address)?, head })
}

/// `ADDR` is IP:PORT, localhost:PORT or PORT alone (on loopback). Names are not looked up: a name server is not asked
/// where a guest's screen goes.
fn listen_address(text: &str) -> Result<SocketAddr, String> {
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let port = text.strip_prefix("localhost:").or_else(|| text.strip_prefix(':')).unwrap_or(text);
    match port.parse::<u16>() {
        Ok(port) => Ok(SocketAddr::new(loopback, port)),
        Err(_) => text.parse().map_err(|_| {
            format!("'{text}' is not an address to listen on, as in 127.0.0.1:5900 (port 0: any free one)")
        }),
    }
}

/// Which input device, and where the VMM connects to it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct InputSocket {
    /// What it is.
    pub kind: InputKind,
    /// The socket.
    pub path: PathBuf,
}

/// `PATH` or `PATH,touch`.
impl FromStr for InputSocket {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (path, kind) = match text.split_once(',') {
            None => (text, InputKind::Console),
            Some((path, "touch")) => (path, InputKind::Touch),
            Some((_, word)) => return Err(format!("'{text}': after the path only touch is understood, not {word}")),
        };
        if path.is_empty() {
            return Err("Name the socket, as in /run/vm-input.sock or /run/vm-touch.sock,touch".to_owned());
        }
        Ok(InputSocket { kind, path: PathBuf::from(path) })
    }
}

impl fmt::Display for InputSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.path.display(), if self.kind == InputKind::Touch { ",touch" } else { "" })
    }
}

macro_rules! try_from_string {
    ($($value:ty),*) => { $(
        impl TryFrom<String> for $value {
            type Error = String;
            fn try_from(text: String) -> Result<Self, String> {
                text.parse()
            }
        }
    )* };
}
try_from_string!(Heads, Bytes, Capsets, Sink, InputSocket, RomSource);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_that_the_manager_takes_are_taken_as_it_takes_them() {
        let words: toml::Table = toml::from_str(include_str!("../../../tests/data/words.toml")).unwrap();
        let taken = |kind: &str| words[kind]["taken"].as_table().unwrap();
        let list = |kind: &str, name: &str| -> Vec<String> { words[kind][name].clone().try_into().unwrap() };
        for (word, bytes) in taken("sizes") {
            assert_eq!(word.parse(), Ok(Bytes(bytes.as_integer().unwrap().unsigned_abs())), "{word}");
        }
        for (word, heads) in taken("heads") {
            let usual = |head: HeadSize| [head.width, head.height, head.refresh.unwrap_or(60)];
            let read: Vec<_> = word.parse::<Heads>().unwrap().0.into_iter().map(usual).collect();
            assert_eq!(heads.clone().try_into(), Ok(read), "{word}");
        }
        assert_eq!(list("capsets", "taken").join(",").parse(), Ok(Capsets(CAPSETS.to_vec())));
        list("displays", "taken").iter().for_each(|word| assert!(word.parse::<Sink>().is_ok(), "{word}"));
        list("sizes", "refused").iter().for_each(|word| assert!(word.parse::<Bytes>().is_err(), "{word}"));
        list("heads", "refused").iter().for_each(|word| assert!(word.parse::<Heads>().is_err(), "{word}"));
        list("capsets", "refused").iter().for_each(|word| assert!(word.parse::<Capsets>().is_err(), "{word}"));
        list("displays", "refused").iter().for_each(|word| assert!(word.parse::<Sink>().is_err(), "{word}"));
    }

    #[test]
    fn heads_are_read_with_and_without_refresh() {
        let heads: Heads = "1280x800@60,1920x1080".parse().unwrap();
        assert_eq!(
            heads.0,
            [
                HeadSize { width: 1280, height: 800, refresh: Some(60) },
                HeadSize { width: 1920, height: 1080, refresh: None }
            ]
        );
    }

    #[test]
    fn more_heads_than_the_specification_has_are_refused() {
        assert!(vec!["1x1"; 16].join(",").parse::<Heads>().is_ok());
        assert!(vec!["1x1"; 17].join(",").parse::<Heads>().unwrap_err().contains("at most 16"));
    }

    #[test]
    fn kinds_of_3d_are_each_offered_once() {
        let read = |text: &str| text.parse::<Capsets>();
        assert_eq!(read("venus,virgl,venus"), Ok(Capsets(vec![CapsetId::VIRGL, CapsetId::VENUS])));
        assert_eq!(read("virgl,virgl2,venus,drm"), Ok(Capsets(CAPSETS.to_vec())));
        for text in ["", "virgl,", "gl", "Venus"] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sinks_read_back_as_they_are_written() {
        for text in [
            "vmm",
            "none",
            "window",
            "window,fullscreen",
            "window,fullscreen=HDMI-A-1",
            "capture=a=b.png",
            "vnc=127.0.0.1:5900",
            "web=[::1]:8080",
            "vnc=127.0.0.1:5901,head=1",
        ] {
            assert_eq!(text.parse::<Sink>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn an_input_socket_is_a_console_unless_it_says_touch() {
        let read = |text: &str| text.parse::<InputSocket>();
        assert_eq!(read("/run/a").unwrap(), InputSocket { kind: InputKind::Console, path: "/run/a".into() });
        assert_eq!(read("/run/a,touch").unwrap(), InputSocket { kind: InputKind::Touch, path: "/run/a".into() });
        for text in ["", ",touch", "/run/a,tuch", "/run/a,touch,touch", "/run/a,"] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_address_without_a_host_is_loopback() {
        for text in ["5900", ":5900", "localhost:5900", "127.0.0.1:5900"] {
            assert_eq!(listen_address(text), Ok(SocketAddr::from(([127, 0, 0, 1], 5900))), "{text}");
        }
        assert!(listen_address("70000").is_err());
        assert!(listen("5900,head=16").is_err());
    }
}
