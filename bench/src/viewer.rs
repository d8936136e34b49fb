//! A viewer that only counts: it takes each frame out of the mailbox, reads each changed pixel once, and says so.
//!
//! The device starts it as it starts any viewer: as the program `beamsplit` beside its own file, with the number of the frames
//! socket. So a copy of the device is laid into a folder where that name leads to this program.

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use frames::{Damage, News, View, ViewerEnd};
use rustix::process::{PidfdFlags, PidfdGetfdFlags};

use crate::daemon::Program;
use crate::error::{Doing, Error, Result};
use crate::frontend::Shown;
use crate::frontend::ring::readable;

/// Names the socket on which the viewer tells the generator of each frame.
const NEWS: &str = "BEAMSPLIT_BENCH_VIEWER";
/// How long a viewer may take to come.
const COMES: Duration = Duration::from_secs(10);

/// True when this process was started to be a viewer.
pub fn is_wanted() -> bool {
    std::env::var_os(NEWS).is_some() && std::env::args().nth(1).as_deref() == Some("viewer")
}

/// Is a viewer until the device is gone.
pub fn run() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let number = arguments.iter().position(|word| word == "--fd").and_then(|at| arguments.get(at + 1)?.parse().ok());
    let number: i32 = number.ok_or_else(|| Error::NotDone("A viewer is started by its device".into()))?;
    let myself =
        rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty()).doing("open this process")?;
    let socket =
        rustix::process::pidfd_getfd(&myself, number, PidfdGetfdFlags::empty()).doing("take the frames socket")?;
    let news = UnixStream::connect(std::env::var_os(NEWS).unwrap_or_default()).doing("connect to the generator")?;
    watch(socket, news)
}

fn watch(socket: OwnedFd, mut news: UnixStream) -> Result<()> {
    let waiting = socket.try_clone().doing("duplicate a socket")?;
    let lost = |error| Error::NotDone(format!("The viewer: {error}"));
    let mut end = ViewerEnd::new(socket).map_err(lost)?;
    let (mut view, mut row) = (None, Vec::new());
    loop {
        match end.receive().map_err(lost)? {
            Some(News::Session(_)) => {
                end.ready(0, true, false).map_err(lost)?;
            }
            Some(News::Show(0, shown)) => view = Some(shown),
            Some(News::Frame(0, damage)) => {
                let bytes = view.as_ref().map_or(0, |view| touch(view, &damage, &mut row));
                end.ready(0, false, false).map_err(lost)?;
                news.write_all(&bytes.to_ne_bytes()).doing("tell the generator")?;
            }
            Some(_) => (),
            None => {
                readable(waiting.as_fd(), None)?;
            }
        }
    }
}

/// Reads what changed, and returns how many bytes that was.
fn touch(view: &View, damage: &Damage, row: &mut Vec<u8>) -> u64 {
    let mut bytes = 0;
    for rect in damage.rects() {
        row.resize(rect.width as usize * 4, 0);
        for line in rect.y..rect.y + rect.height {
            bytes += view.read_row(rect.x, line, row) as u64 * 4;
            std::hint::black_box(&row);
        }
    }
    bytes
}

/// A copy of `program` that will start our viewer, in `folder`, and the socket on which that will come.
pub fn prepare(program: &Program, folder: &Path) -> Result<(Program, UnixListener)> {
    let folder = folder.join("viewer");
    let (path, viewer, socket) = (folder.join("beamsplit-device"), folder.join("beamsplit"), folder.join("news"));
    if !path.exists() {
        std::fs::create_dir_all(&folder).doing("make a folder")?;
        std::fs::copy(&program.path, &path).doing("copy the device")?;
        let own = std::env::current_exe().doing("find this program")?;
        std::os::unix::fs::symlink(own, viewer).doing("lay the viewer beside the device")?;
    }
    let _ = std::fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket).doing("listen for the viewer")?;
    let arguments =
        ["--renderer", "soft", "--display", "vnc=127.0.0.1:0", "--heads", "1920x1080"].map(String::from).to_vec();
    let environment = vec![(NEWS.into(), socket)];
    Ok((Program { name: program.name.clone(), path, arguments, environment }, listener))
}

/// Counts what the viewer touched, on a thread, until it is gone.
pub fn listen(listener: &UnixListener) -> Result<Arc<Shown>> {
    if !readable(listener.as_fd(), Some(COMES))? {
        return Err(Error::NotDone("No viewer came".into()));
    }
    let (mut stream, _) = listener.accept().doing("accept the viewer")?;
    let shown = Arc::new(Shown::default());
    let counted = shown.clone();
    let count = move || {
        let mut bytes = [0; 8];
        while stream.read_exact(&mut bytes).is_ok() {
            counted.add_update(u64::from_ne_bytes(bytes));
        }
        counted.close();
    };
    std::thread::Builder::new().name("viewer's news".into()).spawn(count).doing("start a thread")?;
    Ok(shown)
}
