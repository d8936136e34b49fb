//! What the words mean together: one checked value from the command line and the config file.

use std::ffi::OsString;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use device::InputKind;
use protocol::edid::{Edid, Mode};
use tracing_subscriber::filter::Targets;

use crate::args::{Options, Usage};
use crate::card::Card;
use crate::three_d::ThreeD;
use crate::values::{
    Bytes, HeadSize, Heads, InputSocket, Listen, RendererKind, SandboxMode, Sink, Window, refresh_rate,
};

/// The largest config or EDID file: real ones have a hundredth of it.
const MAX_FILE: u64 = 64 << 10;
/// What a guest has of memory unless it is said: for pictures; and for what it draws in 3D.
const MEMORY: u64 = 256 << 20;
/// See [`MEMORY`].
pub const MEMORY_3D: u64 = 1 << 30;
/// The least memory that shows a console.
const MIN_MEMORY: u64 = 16 << 20;
/// What a VMM that draws nothing itself means for the picture.
const NO_WINDOW: &str = "Over vfio-user the VMM's own window shows nothing of this screen: see it by --display vnc, web, \
                         window or capture";
/// What a library for 3D in the device's own process means.
const NOT_ISOLATED: &str = "--isolate off: the library that draws 3D runs in the device's own process, with a larger sandbox; if it \
                            crashes or hangs, this VM loses its GPU for good. For comparison only";
/// What the path of a keyboard ends with that nobody asked for, behind the GPU's.
const INPUT: &str = ".input";
/// The longest name: it is shown in titles and in every line of statistics.
const MAX_NAME: usize = 64;

/// Where the VMM is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// It will connect to this path; the device outlives it.
    Listen(PathBuf),
    /// It is connected already; the device ends with it.
    Inherited(i32),
}

/// Who shows the pixels: at most one of each kind, of those that are for one head one for each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sinks {
    /// The VMM's own window, when it has one.
    pub vmm: bool,
    /// A PNG file.
    pub capture: Option<PathBuf>,
    /// VNC clients.
    pub vnc: Vec<Listen>,
    /// Browsers.
    pub web: Vec<Listen>,
    /// A window for each head on the host's desktop.
    pub window: Option<Window>,
}

impl Sinks {
    /// Whether pixels go to another process that shows them.
    pub fn need_viewer(&self) -> bool {
        self.are_open() || self.window.is_some()
    }

    /// Whether others than who sits at this host can connect.
    pub fn are_open(&self) -> bool {
        !self.vnc.is_empty() || !self.web.is_empty()
    }
}

/// Everything the device is told before it starts.
#[derive(Debug)]
pub struct Config {
    /// Where the VMM is.
    pub endpoint: Endpoint,
    /// The PCI function that it is served over vfio-user; over vhost-user none.
    pub card: Option<Card>,
    /// Who makes the pixels.
    pub renderer: RendererKind,
    /// What is asked for of 3D, if it is.
    pub three_d: Option<ThreeD>,
    /// Who shows them.
    pub sinks: Sinks,
    /// The heads at start.
    pub heads: Vec<Mode>,
    /// The first head's identity, when the user has one.
    pub edid: Option<Edid>,
    /// The cap on what the guest makes us allocate, what the boot display takes included.
    pub memory: u64,
    /// The input devices, at most one of each kind.
    pub inputs: Vec<InputSocket>,
    /// Who may look and type.
    pub tokens: Option<PathBuf>,
    /// Where questions are answered.
    pub control_socket: Option<PathBuf>,
    /// Where the manager of time slices connects.
    pub arbiter_socket: Option<PathBuf>,
    /// Paths of sockets as they were written, with `{pid}` in them, when devices share the words.
    pub patterns: Vec<PathBuf>,
    /// What the vGPU is called.
    pub name: String,
    /// How strictly the process locks itself in.
    pub sandbox: SandboxMode,
    /// What is logged.
    pub log: Targets,
    /// What the user should know about what was asked for, one line each.
    pub notices: Vec<String>,
}

impl Config {
    /// Reads the config file where one is due, and judges the whole.
    pub fn load(said: Options) -> Result<Config> {
        let file = match &said.config {
            Some(path) => Some(read_options(path)?.with_context(|| format!("No config file {}", path.display()))?),
            // libvirt cannot pass options of ours: what it leaves out is looked for in the usual places.
            None if said.fd.is_some() => find_options(|name| std::env::var_os(name))?,
            None => None,
        };
        Config::judge(said.or(file.unwrap_or_default()), std::env::var("BEAMSPLIT_LOG").ok())
    }

    fn judge(options: Options, log_environment: Option<String>) -> Result<Config> {
        options.refuse_planned()?;
        let mut notices = Vec::new();
        let three_d = ThreeD::judge(&options)?;
        if three_d.is_none() && options.render_node.is_some() {
            notices.push("--render-node: unused without --renderer virgl".to_owned());
        }
        if three_d.as_ref().is_some_and(|words| !words.isolate) {
            notices.push(NOT_ISOLATED.to_owned());
        }
        let endpoint = match (options.socket_path.clone(), options.fd) {
            (_, Some(fd)) => Endpoint::Inherited(fd),
            (Some(path), None) => Endpoint::Listen(path),
            (None, None) => {
                return usage(
                    "Say where the VMM is: --socket-path PATH to listen there, or --fd N for a passed socket",
                );
            }
        };
        let edid = options.edid.as_deref().map(read_edid).transpose()?;
        let heads = heads(options.heads.clone(), options.refresh, edid.as_ref())?;
        let card = Card::judge(&options, &heads)?;
        let mut sinks = sinks(options.display)?;
        if card.is_some() && std::mem::take(&mut sinks.vmm) {
            notices.push(NO_WINDOW.to_owned());
        }
        if let Some(place) = sinks.vnc.iter().chain(&sinks.web).find(|place| usize::from(place.head) >= heads.len()) {
            return usage(format!("--display {place} shows a head that --heads does not have"));
        }
        if options.tokens.is_some() && !sinks.are_open() {
            return usage("--tokens says who may connect by --display vnc or web: ask for one of them too");
        }
        let written = options.input_socket.iter().map(|input| &input.path).chain(&options.control_socket);
        let patterns = written.filter(|path| has_pid(path)).cloned().collect();
        Ok(Config {
            inputs: inputs(options.input_socket, &sinks, card.is_some().then_some(&endpoint))?,
            tokens: options.tokens,
            sinks,
            heads,
            edid,
            memory: memory(options.memory, three_d.is_some(), card.as_ref())?,
            card,
            patterns,
            control_socket: options.control_socket.map(with_pid),
            arbiter_socket: options.arbiter_socket,
            name: name(options.name, &endpoint)?,
            renderer: options.renderer.unwrap_or(if three_d.is_some() {
                RendererKind::Virgl
            } else {
                RendererKind::Soft
            }),
            three_d,
            sandbox: options.sandbox.unwrap_or(SandboxMode::On),
            log: log_filter(options.log.or(log_environment))?,
            endpoint,
            notices,
        })
    }
}

fn usage<T>(why: impl Into<String>) -> Result<T> {
    Err(Usage(why.into()).into())
}

fn sinks(words: Vec<Sink>) -> Result<Sinks> {
    if words.len() > 1 && words.contains(&Sink::None) {
        return usage("--display none leaves no room for another --display");
    }
    // Without a word the picture goes where the VMM shows it, if it does.
    let mut sinks = Sinks { vmm: words.is_empty(), ..Sinks::default() };
    for word in words {
        let text = word.to_string();
        let taken = match word {
            Sink::Vmm => std::mem::replace(&mut sinks.vmm, true),
            Sink::Capture(file) => sinks.capture.replace(with_pid(file)).is_some(),
            Sink::Vnc(listen) | Sink::Web(listen) if !listen.address.ip().is_loopback() => {
                return usage(format!(
                    "--display {text} would show the guest to the network without a password: \
                     use 127.0.0.1 and an SSH tunnel"
                ));
            }
            Sink::Vnc(listen) => add(&mut sinks.vnc, listen),
            Sink::Web(listen) => add(&mut sinks.web, listen),
            Sink::Window(window) => sinks.window.replace(window).is_some(),
            // It is alone.
            Sink::None => false,
        };
        if taken {
            return usage(format!("--display {text} is one too many: each kind, or head, is shown once"));
        }
    }
    Ok(sinks)
}

/// Keyboards and screens to touch, for which there must be somebody. `beside` a GPU that is served as a PCI function there is
/// a keyboard without a word.
fn inputs(words: Vec<InputSocket>, sinks: &Sinks, beside: Option<&Endpoint>) -> Result<Vec<InputSocket>> {
    let mut inputs: Vec<InputSocket> = Vec::new();
    for word in words {
        if !sinks.need_viewer() {
            return usage(format!(
                "--input-socket {word} needs somebody who types: --display vnc=ADDR, web=ADDR or window \
                 (the VMM's own window has its own keyboard)"
            ));
        }
        if inputs.iter().any(|other| other.kind == word.kind) {
            return usage(format!("--input-socket {word} is one too many: one keyboard and one touch screen"));
        }
        inputs.push(InputSocket { path: with_pid(word.path), ..word });
    }
    let asked = inputs.iter().any(|input| input.kind == InputKind::Console);
    if let Some(Endpoint::Listen(path)) = beside
        && sinks.need_viewer()
        && !asked
    {
        let mut path = path.clone().into_os_string();
        path.push(INPUT);
        inputs.push(InputSocket { kind: InputKind::Console, path: path.into() });
    }
    Ok(inputs)
}

/// Whether the head is shown there already.
fn add(places: &mut Vec<Listen>, place: Listen) -> bool {
    let taken = places.iter().any(|other| other.head == place.head);
    places.push(place);
    taken
}

/// The heads that were named, else one as the given monitor likes it, else one of 1280x800.
fn heads(words: Option<Heads>, refresh: Option<u32>, edid: Option<&Edid>) -> Result<Vec<Mode>> {
    let refresh = refresh.map(|hertz| refresh_rate(hertz).map_err(Usage)).transpose()?;
    let usual = 60;
    Ok(match words {
        Some(Heads(heads)) => heads
            .into_iter()
            .map(|HeadSize { width, height, refresh: own }| {
                let refresh = own.or(refresh).unwrap_or(usual);
                Mode { width, height, refresh }
            })
            .collect(),
        None => {
            let mode = edid.and_then(Edid::preferred_mode).unwrap_or(Mode { width: 1280, height: 800, refresh: usual });
            vec![Mode { refresh: refresh.unwrap_or(mode.refresh), ..mode }]
        }
    })
}

fn memory(words: Option<Bytes>, with_3d: bool, card: Option<&Card>) -> Result<u64> {
    let usual = if with_3d { MEMORY_3D } else { MEMORY };
    let bytes = words.map_or(usual, |bytes| bytes.0);
    let boot = card.map_or(0, Card::boot_memory);
    let least = MIN_MEMORY + boot;
    if bytes < least {
        let takes = if boot == 0 { "" } else { " beside the boot display" };
        return usage(format!("--memory {bytes} holds no screen{takes}: give at least {}M", least >> 20));
    }
    Ok(bytes)
}

/// The name the user gave, else the stem of the socket's file name, else our process id.
fn name(word: Option<String>, endpoint: &Endpoint) -> Result<String> {
    if let Some(name) = word {
        let printable = !name.chars().any(char::is_control);
        return if (1..=MAX_NAME).contains(&name.len()) && printable {
            Ok(name)
        } else {
            usage(format!("--name takes 1 to {MAX_NAME} printable bytes"))
        };
    }
    let stem = match endpoint {
        Endpoint::Listen(path) => path.file_stem().map(|stem| stem.to_string_lossy().into_owned()),
        Endpoint::Inherited(_) => None,
    };
    Ok(stem.unwrap_or_else(|| std::process::id().to_string()).chars().take(MAX_NAME).collect())
}

/// What stands for our process id where several devices share the words.
pub const PID: &str = "{pid}";

fn has_pid(path: &Path) -> bool {
    path.to_str().is_some_and(|text| text.contains(PID))
}

fn with_pid(path: PathBuf) -> PathBuf {
    match path.to_str() {
        Some(text) if has_pid(&path) => text.replace(PID, &std::process::id().to_string()).into(),
        _ => path,
    }
}

fn log_filter(words: Option<String>) -> Result<Targets> {
    let words = words.unwrap_or_else(|| "info".to_owned());
    match words.parse() {
        Ok(filter) => Ok(filter),
        Err(why) => usage(format!("Log filter '{words}': {why}; write it as in info or warn,device=debug")),
    }
}

/// The places where a config file is looked for, best first.
fn config_places(environment: impl Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    let folder = |name: &str| environment(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let user = folder("XDG_CONFIG_HOME").or_else(|| folder("HOME").map(|home| home.join(".config")));
    user.into_iter().chain([PathBuf::from("/etc")]).map(|folder| folder.join("beamsplit/device.toml")).collect()
}

fn find_options(environment: impl Fn(&str) -> Option<OsString>) -> Result<Option<Options>> {
    if let Some(path) = environment("BEAMSPLIT_CONFIG").map(PathBuf::from) {
        let found = read_options(&path)?;
        return found.map(Some).with_context(|| format!("No config file {} (BEAMSPLIT_CONFIG)", path.display()));
    }
    for place in config_places(environment) {
        if let Some(options) = read_options(&place)? {
            return Ok(Some(options));
        }
    }
    Ok(None)
}

/// `None` when there is no such file.
fn read_options(path: &Path) -> Result<Option<Options>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("Cannot read config file {}", path.display())),
    };
    let mut text = String::new();
    let length = file.take(MAX_FILE + 1).read_to_string(&mut text);
    let length = length.with_context(|| format!("Cannot read config file {}", path.display()))?;
    if length as u64 > MAX_FILE {
        return usage(format!("Config file {} is larger than {} KiB", path.display(), MAX_FILE >> 10));
    }
    match Options::from_toml(&text) {
        Ok(options) => Ok(Some(options)),
        Err(why) => usage(format!("Config file {}, {why}", path.display())),
    }
}

fn read_edid(path: &Path) -> Result<Edid> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_FILE).read_to_end(&mut bytes))
        .with_context(|| format!("Cannot read EDID file {}", path.display()))?;
    Edid::parse(&bytes).map_err(|why| Usage(format!("{}: {why}", path.display())).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(line: &str) -> Result<Config> {
        let words = std::iter::once("beamsplit-device").chain(line.split_whitespace()).map(OsString::from);
        Config::judge(Options::parse_words(words).unwrap(), None)
    }

    #[test]
    fn the_defaults_are_those_of_the_manual() {
        let config = judge("--socket-path /run/vm7.sock").unwrap();
        assert_eq!(config.endpoint, Endpoint::Listen("/run/vm7.sock".into()));
        assert_eq!(config.renderer, RendererKind::Soft);
        assert_eq!(config.sinks, Sinks { vmm: true, ..Sinks::default() });
        assert_eq!(config.heads, [Mode { width: 1280, height: 800, refresh: 60 }]);
        assert_eq!(config.memory, 256 << 20);
        assert_eq!(judge("--fd 3 --virgl").unwrap().memory, 1 << 30);
        assert_eq!(config.sandbox, SandboxMode::On);
        assert_eq!(config.name, "vm7");
        assert!(config.notices.is_empty());
    }

    #[test]
    fn words_that_contradict_each_other_are_wrong_usage() {
        for (line, named) in [
            ("", "--socket-path"),
            ("--fd 3 --display none --display vmm", "--display none"),
            ("--fd 3 --display vnc=5900 --display vnc=5901", "one too many"),
            ("--fd 3 --display vmm --display vmm", "one too many"),
            ("--fd 3 --display vnc=5900 --display vnc=5901,head=1", "does not have"),
            ("--fd 3 --display vnc=0.0.0.0:5900", "without a password"),
            ("--fd 3 --display web=[::]:80", "without a password"),
            ("--fd 3 --display window --display window,fullscreen", "one too many"),
            ("--fd 3 --input-socket /in", "needs somebody who types"),
            ("--fd 3 --display none --input-socket /in", "needs somebody who types"),
            ("--fd 3 --display web=0 --input-socket /a --input-socket /b", "one too many"),
            ("--fd 3 --display web=0 --input-socket /a,touch --input-socket /b,touch", "one too many"),
            ("--fd 3 --tokens /t", "--display vnc or web"),
            ("--fd 3 --display window --tokens /t", "--display vnc or web"),
            ("--fd 3 --memory 1M", "at least 16M"),
            ("--fd 3 --refresh 0", "Refresh 0"),
            ("--fd 3 --log a=b=c", "a=b=c"),
            ("--fd 3 --window 1G", "--renderer virgl"),
            ("--fd 3 --transport vfio-user --virgl --capsets venus", "changes all the time"),
            ("--fd 3 --model vga", "--transport vfio-user"),
            ("--fd 3 --transport vfio-user --model bochs --heads 640x480,640x480", "--heads"),
            ("--fd 3 --transport vfio-user --memory 63M", "at least 64M"),
            ("--fd 3 --transport vfio-user --model virtio --memory 1M", "at least 16M"),
            ("--fd 3 --transport vfio-user --heads 3840x2160 --memory 100M", "at least 112M"),
            ("--fd 3 --transport vfio-user --input-socket /in", "needs somebody who types"),
        ] {
            let error = judge(line).expect_err(line);
            assert!(error.is::<Usage>(), "{line}: {error}");
            let message = format!("{error:#}");
            assert!(message.contains(named) && !message.contains('\n'), "{line}: {message}");
        }
    }

    #[test]
    fn an_empty_name_or_one_that_breaks_lines_is_wrong_usage() {
        for name in ["", "a\nb", &"x".repeat(65)] {
            let mut options = Options::default();
            (options.fd, options.name) = (Some(3), Some(name.to_owned()));
            assert!(Config::judge(options, None).expect_err(name).is::<Usage>());
        }
    }

    #[test]
    fn a_node_that_draws_nothing_is_said_to_be_unused() {
        assert_eq!(judge("--fd 3 --virgl --render-node /dev/dri/renderD128").unwrap().notices.len(), 0);
        let notices = judge("--fd 3 --render-node /dev/dri/renderD128").unwrap().notices;
        assert!(notices.len() == 1 && notices[0].contains("--renderer virgl"));
    }

    #[test]
    fn a_library_in_the_devices_own_process_is_warned_of() {
        assert!(judge("--fd 3 --virgl --isolate on").unwrap().notices.is_empty());
        let notices = judge("--fd 3 --virgl --isolate off").unwrap().notices;
        assert!(notices.len() == 1 && notices[0].contains("loses its GPU"), "{notices:?}");
    }

    #[test]
    fn over_vfio_user_the_vmm_shows_nothing_which_is_said() {
        let sinks = |line: &str| {
            let config = judge(&format!("--fd 3 --transport vfio-user {line}")).unwrap();
            (config.sinks, config.notices.len())
        };
        assert_eq!(sinks(""), (Sinks::default(), 1));
        assert_eq!(sinks("--display vmm"), (Sinks::default(), 1));
        assert_eq!(sinks("--display none"), (Sinks::default(), 0));
        let (both, said) = sinks("--display vmm --display web=0");
        assert!(!both.vmm && both.web.len() == 1 && said == 1);
    }

    #[test]
    fn over_vfio_user_who_sees_can_type() {
        let inputs = |line: &str| {
            let config = judge(&format!("--transport vfio-user {line}")).unwrap();
            config.inputs.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(inputs("--socket-path /run/vm.sock --display web=0"), ["/run/vm.sock.input"]);
        assert_eq!(inputs("--socket-path /run/vm.sock --display web=0 --input-socket /in"), ["/in"]);
        let both = inputs("--socket-path /run/vm.sock --display web=0 --input-socket /in,touch");
        assert_eq!(both, ["/in,touch", "/run/vm.sock.input"]);
        assert!(inputs("--socket-path /run/vm.sock --display none").is_empty());
        // Where it would be is not known.
        assert!(inputs("--fd 3 --display web=0").is_empty());
        assert!(judge("--socket-path /run/vm.sock --display web=0").unwrap().inputs.is_empty());
    }

    #[test]
    fn refresh_completes_heads_that_name_none() {
        let config = judge("--fd 3 --refresh 75 --heads 640x480,800x600@50").unwrap();
        assert_eq!(config.heads.iter().map(|head| head.refresh).collect::<Vec<_>>(), [75, 50]);
    }

    #[test]
    fn files_of_devices_that_share_a_config_differ_by_pid() {
        let config =
            judge("--fd 3 --display web=0 --control-socket /run/b-{pid}.sock --input-socket /run/i-{pid}.sock")
                .unwrap();
        let path = |name: &str| PathBuf::from(format!("/run/{name}-{}.sock", std::process::id()));
        assert_eq!(config.control_socket, Some(path("b")));
        assert_eq!(config.inputs[0].path, path("i"));
        assert_eq!(config.patterns, [PathBuf::from("/run/i-{pid}.sock"), PathBuf::from("/run/b-{pid}.sock")]);
    }

    #[test]
    fn the_users_config_comes_before_the_systems() {
        let places = config_places(|name| (name == "HOME").then(|| "/home/u".into()));
        assert_eq!(
            places,
            [PathBuf::from("/home/u/.config/beamsplit/device.toml"), "/etc/beamsplit/device.toml".into()]
        );
        let places = config_places(|name| (name == "XDG_CONFIG_HOME").then(|| "/x".into()));
        assert_eq!(places[0], PathBuf::from("/x/beamsplit/device.toml"));
    }

    #[test]
    fn a_config_file_that_was_named_must_exist() {
        let folder = tempfile::tempdir().unwrap();
        let named = folder.path().join("device.toml");
        let look = |name: &str| (name == "BEAMSPLIT_CONFIG").then(|| named.clone().into_os_string());
        assert!(format!("{:#}", find_options(look).unwrap_err()).contains("device.toml"));
        std::fs::write(&named, "heads = \"640x480\"").unwrap();
        assert!(find_options(look).unwrap().unwrap().heads.is_some());
    }

    #[test]
    fn the_example_file_holds_the_defaults() {
        let example = include_str!("../../../packaging/device.toml");
        assert_eq!(Options::from_toml(example).unwrap(), Options::default());
        // Each option once, as it stands there.
        let mut seen = Vec::new();
        let options = example.lines().filter_map(|line| line.strip_prefix('#')).filter(|line| line.contains(" = "));
        let text: Vec<_> = options
            .filter(|line| {
                let name = line.split(' ').next().unwrap_or_default();
                !seen.contains(&name) && {
                    seen.push(name);
                    true
                }
            })
            .collect();
        let mut options = Options::from_toml(&text.join("\n")).unwrap();
        // These are no defaults, as it says there.
        (options.control_socket, options.tokens) = (None, None);
        options.input_socket.clear();
        (options.model, options.msix, options.pio, options.rom) = (None, None, None, None);
        (options.capsets, options.render_node, options.window) = (None, None, None);
        (options.virglrenderer, options.render_server) = (None, None);
        (options.renderer_memory, options.arbiter_socket) = (None, None);
        assert_eq!(options.isolate.take(), Some(crate::values::Switch::On));
        // These belong to 3D, which is none.
        assert_eq!((options.renderer_patience.take(), options.renderer_restarts.take()), (Some(10), Some(6)));
        options.fd = Some(3);
        let (said, silent) = (Config::judge(options, None).unwrap(), judge("--fd 3").unwrap());
        assert_eq!(format!("{said:?}"), format!("{silent:?}"));
    }

    #[test]
    fn a_wrong_config_file_is_named_with_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("device.toml");
        std::fs::write(&path, "memory = \"64M\"\nheads = 3\n").unwrap();
        let error = read_options(&path).unwrap_err();
        assert!(error.is::<Usage>());
        let message = format!("{error:#}");
        assert!(message.contains("device.toml, line 2"), "{message}");
    }

    #[test]
    fn a_monitor_file_gives_the_head_its_size_and_a_bad_one_is_wrong_usage() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("monitor.bin");
        let judge = |line: &str| judge(&format!("--fd 3 --edid {} {line}", path.display()));
        assert!(!judge("").unwrap_err().is::<Usage>());
        let monitor = protocol::edid::Monitor::head(0, Mode { width: 1600, height: 900, refresh: 60 });
        std::fs::write(&path, monitor.edid().as_bytes()).unwrap();
        let config = judge("").unwrap();
        assert_eq!(config.heads, [Mode { width: 1600, height: 900, refresh: 60 }]);
        assert_eq!(config.edid, Some(monitor.edid()));
        assert_eq!(judge("--heads 640x480").unwrap().heads, [Mode { width: 640, height: 480, refresh: 60 }]);
        std::fs::write(&path, &monitor.edid().as_bytes()[1..]).unwrap();
        let error = judge("").unwrap_err();
        assert!(error.is::<Usage>() && error.to_string().contains("monitor.bin"), "{error:#}");
    }
}
