//! The library itself, as this machine has it. Each case runs in a process of its own: a library is started once for the life of
//! a process, and what crashes ends only that.

use std::env;
use std::ffi::OsStr;
use std::fmt::Display;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Output};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use device::{Ticket, Way};
use protocol::{Box3d, CapsetId, ContextId, Rect, ReplyError, Resource3d, ResourceId, Transfer3d};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use vm_memory::{Bytes, MmapRegion};

use super::{Config, Loaded, Virgl, find_render_server, stream};
use crate::library::{Kind, Library, Piece, Sink};

mod gl;
mod isolated;
mod probes;
mod vk;

/// Longer than anything takes on a machine that does other things too.
const PATIENCE: Duration = Duration::from_secs(60);
/// What a case says when it could not be tried.
const SKIPPED: &str = "SKIPPED";

/// The words that stand before a program to run it where the test bed's library is, one on each line.
const INSIDE: &str = "BEAMSPLIT_INSIDE";

/// Tells a case that it runs there, where nothing is missing.
const COMPLETE: &str = "BEAMSPLIT_INSIDE_COMPLETE";

/// Runs an ignored test of this program in processes of its own: with the host's library, and with the test bed's.
fn alone(case: &str) {
    let mut tried = on_host().and_then(|()| run(case, &[]));
    if let Ok(inside) = env::var(INSIDE) {
        tried = run(case, &inside.lines().collect::<Vec<_>>());
    }
    if let Err(why) = tried {
        println!("{case} was not tried: {why}");
        assert!(env::var_os("CI").is_none(), "{case} was not tried: {why}");
    }
}

/// Whether the host's own library can be tried: it may have no driver, at which some versions end the process.
fn on_host() -> Result<(), String> {
    static STARTS: OnceLock<bool> = OnceLock::new();
    let starts = STARTS.get_or_init(|| again("starts", &[]).status.success());
    if *starts { Ok(()) } else { Err("The host's OpenGL does not start".to_owned()) }
}

#[test]
#[ignore = "started by all that need the host's library"]
fn starts() {
    World::gl();
}

/// Runs an ignored test of this program.
fn again(case: &str, before: &[&str]) -> Output {
    let name = format!("{}::{case}", module_path!().split_once("::").unwrap().1);
    let program = env::current_exe().unwrap();
    let mut words = before.iter().map(OsStr::new).chain([program.as_os_str()]);
    let mut command = Command::new(words.next().unwrap());
    command.args(words).args(["--exact", &name, "--ignored", "--nocapture", "--test-threads=1"]);
    if !before.is_empty() {
        command.env(COMPLETE, "1");
    }
    command.env("EGL_PLATFORM", "surfaceless").output().unwrap()
}

/// An error says why it could not be tried.
fn run(case: &str, before: &[&str]) -> Result<(), String> {
    let output = again(case, before);
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{case}: {}\n{text}\n{errors}", output.status);
    assert!(text.contains("1 passed"), "{case} did not run:\n{text}");
    match text.lines().find_map(|line| line.split_once(SKIPPED)) {
        Some((_, why)) => Err(why.to_owned()),
        None => Ok(()),
    }
}

/// Fences as they are told.
struct Told(Sender<Ticket>);

impl Sink for Told {
    fn retired(&self, ticket: Ticket) {
        self.0.send(ticket).unwrap();
    }
}

/// A case cannot be tried here: a host may have the library and no driver. The test bed has all.
fn skip(why: impl Display) {
    assert!(env::var_os(COMPLETE).is_none(), "{why}");
    println!("{SKIPPED} {why}");
}

fn load() -> Option<Loaded> {
    match Virgl::load(None) {
        Ok(loaded) => {
            println!("{} from {}", loaded.version(), loaded.path().display());
            Some(loaded)
        }
        Err(error) => {
            skip(error);
            None
        }
    }
}

/// A render server that goes with the library, and its socket.
fn serve(loaded: &Loaded) -> Option<(OwnedFd, Child)> {
    let Some(server) = find_render_server(loaded.path()) else {
        skip("There is no render server");
        return None;
    };
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    Some((ours, Command::new(server).args(["--socket-fd", "0"]).stdin(theirs).spawn().unwrap()))
}

/// A library that was started, and what it tells.
struct World {
    library: Box<dyn Library>,
    told: Receiver<Ticket>,
}

impl World {
    /// `None`: this machine has none; the case says so.
    fn gl() -> Option<Self> {
        let loaded = load()?;
        let (sender, told) = channel();
        let config = Config { kind: Kind::Gl, node: None, server: None, sink: Arc::new(Told(sender)) };
        let library = loaded.start(config).map_err(skip).ok()?;
        Some(Self { library, told })
    }

    /// As above, with its render server.
    fn vk() -> Option<(Self, Child)> {
        let loaded = load()?;
        let (ours, server) = serve(&loaded)?;
        let (sender, told) = channel();
        let config = Config { kind: Kind::Vk, node: None, server: Some(ours), sink: Arc::new(Told(sender)) };
        Some((Self { library: loaded.start(config).unwrap(), told }, server))
    }

    fn told(&mut self) -> Ticket {
        Self::wait(self.library.as_mut(), &mut self.told)
    }

    /// Waits for one fence.
    fn wait(library: &mut dyn Library, told: &mut Receiver<Ticket>) -> Ticket {
        loop {
            let wait = library.poll().map_or(PATIENCE, |wait| Duration::from_millis(wait.into()));
            match told.recv_timeout(wait) {
                Ok(ticket) => return ticket,
                Err(_) => assert!(wait < PATIENCE, "No fence was told"),
            }
        }
    }

    /// A part of a picture.
    fn read(&mut self, resource: ResourceId, rect: Rect) -> Vec<u8> {
        let stride = rect.width * 4;
        let region = MmapRegion::<()>::new((stride * rect.height) as usize).unwrap();
        let slice = vm_memory::VolatileMemory::as_volatile_slice(&region);
        self.library.read(resource, rect, slice, stride).unwrap();
        let mut bytes = vec![0; slice.len()];
        slice.read_slice(&mut bytes, 0).unwrap();
        bytes
    }
}

/// A picture that can be drawn on.
fn picture(width: u32, height: u32) -> Resource3d {
    Resource3d {
        target: stream::TEXTURE_2D,
        format: stream::BGRA,
        bind: stream::RENDER_TARGET | stream::SAMPLED,
        width,
        height,
        depth: 1,
        array_size: 1,
        ..Resource3d::default()
    }
}

/// Memory of a guest's: pages at these places of one mapping.
fn pages(mapping: &Arc<MmapRegion>, places: &[(usize, usize)]) -> Vec<Piece> {
    places.iter().map(|&(offset, len)| Piece { mapping: mapping.clone(), offset, len }).collect()
}

#[test]
fn a_librarys_file_tells_its_release() {
    assert_eq!(super::release("libvirglrenderer.so.1.7.7"), Some("0.10"));
    assert_eq!(super::release("libvirglrenderer.so.1.11.0"), Some("1.3"));
    for unknown in ["libvirglrenderer.so.1", "libvirglrenderer.so.1.99.0", "libvirglrenderer.so", "mine.so"] {
        assert_eq!(super::release(unknown), None);
    }
}
