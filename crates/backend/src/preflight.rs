//! Everything that can be wrong with the machine is found before anything is made: paths, ports, rights, programs.
//!
//! [`check`] looks, [`Sockets::open`] then makes; whatever was made is unmade when a later step fails.

use std::fs::DirEntry;
use std::io::{Error, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use device::input::InputKind;
use rustix::fs::{Access, Mode, access};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, connect, socket};
use rustix::process::umask;
use transport::serve::Endpoint;

use crate::config::{Config, Endpoint as Place, PID};
use crate::values::Listen;
use crate::{inherited, rights};

/// The longest path that fits a Unix socket's address.
const MAX_SOCKET_PATH: usize = 107;

/// Looks whether all that `config` names can be made. Makes nothing.
pub fn check(config: &Config) -> Result<()> {
    let vmm = match &config.endpoint {
        Place::Listen(path) => Some(path),
        Place::Inherited(_) => None,
    };
    let mut sockets: Vec<(&str, &Path)> = Vec::new();
    let words = vmm.map(|path| ("--socket-path", path)).into_iter();
    let words = words.chain(config.inputs.iter().map(|input| ("--input-socket", &input.path)));
    let words = words.chain(config.control_socket.as_ref().map(|path| ("--control-socket", path)));
    for (word, path) in words.chain(config.arbiter_socket.as_ref().map(|path| ("--arbiter-socket", path))) {
        check_socket_path(path)?;
        if let Some((other, _)) = sockets.iter().find(|(_, taken)| taken == path) {
            bail!("{other} and {word} name one path, {}: name two", path.display());
        }
        sockets.push((word, path));
    }
    if let Some(path) = &config.tokens {
        check_tokens(path)?;
    }
    if let Some(path) = &config.sinks.capture {
        check_capture(path)?;
    }
    Ok(())
}

fn check_socket_path(path: &Path) -> Result<()> {
    let length = path.as_os_str().len();
    ensure!(
        length <= MAX_SOCKET_PATH,
        "Socket path {} is too long ({length} bytes, at most {MAX_SOCKET_PATH}): choose a shorter folder",
        path.display()
    );
    check_folder(path, "listen on")?;
    let Ok(there) = path.symlink_metadata() else { return Ok(()) };
    ensure!(
        there.file_type().is_socket(),
        "Cannot listen on {}: there is something else than a socket; choose another path",
        path.display()
    );
    ensure!(
        !is_listened_to(path)?,
        "Cannot listen on {}: another program does so already; choose another path or end that program",
        path.display()
    );
    Ok(())
}

/// Asks the kernel without disturbing who listens: a datagram socket cannot reach a listener, and the two ways in which
/// it fails tell a live one (wrong type) from a file that nobody holds any more (refused).
fn is_listened_to(path: &Path) -> Result<bool> {
    let probe = socket(AddressFamily::UNIX, SocketType::DGRAM, None)?;
    match connect(&probe, &SocketAddrUnix::new(path)?) {
        Ok(()) | Err(Errno::PROTOTYPE) => Ok(true),
        Err(Errno::CONNREFUSED | Errno::NOENT) => Ok(false),
        Err(error) => Err(rights::explain(error.into(), path)).context(format!("Cannot listen on {}", path.display())),
    }
}

/// What the viewer will read is there, and nobody else's to read. What is in it is the viewer's to judge.
fn check_tokens(path: &Path) -> Result<()> {
    let cannot = || format!("Cannot use the tokens in {}", path.display());
    let there = path.metadata().map_err(|error| rights::explain(error, path)).with_context(cannot)?;
    ensure!(there.is_file(), "{}: it is not an ordinary file", cannot());
    let mode = there.mode() & 0o777;
    ensure!(
        mode & 0o077 == 0,
        "{}: others can read or write it (mode {mode:04o}); keep it to yourself: chmod 600 {}",
        cannot(),
        path.display()
    );
    access(path, Access::READ_OK).map_err(|error| rights::explain(error.into(), path)).with_context(cannot)
}

fn check_capture(path: &Path) -> Result<()> {
    check_folder(path, "write")?;
    match path.metadata() {
        Ok(there) if !there.is_file() => bail!("Cannot write {}: it is not an ordinary file", path.display()),
        Ok(_) => access(path, Access::WRITE_OK)
            .map_err(|error| rights::explain(error.into(), path))
            .with_context(|| format!("Cannot write {}", path.display())),
        Err(_) => Ok(()),
    }
}

/// The folder that `path` would be made in must be there and be ours to write.
fn check_folder(path: &Path, verb: &str) -> Result<()> {
    let folder = folder_of(path);
    let cannot = || format!("Cannot {verb} {}", path.display());
    ensure!(path.file_name().is_some(), "{}: it names no file", cannot());
    match folder.metadata() {
        Ok(there) if !there.is_dir() => bail!("{}: {} is not a folder", cannot(), folder.display()),
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => bail!(
            "{}: the folder {} does not exist; make it: mkdir -p {}",
            cannot(),
            folder.display(),
            folder.display()
        ),
        Err(error) => return Err(rights::explain(error, &folder)).with_context(cannot),
    }
    access(&folder, Access::WRITE_OK | Access::EXEC_OK)
        .map_err(|error| rights::explain(error.into(), &folder))
        .with_context(cannot)
}

/// The folder of a file: `.` for a bare name.
pub fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// The sockets of a device.
#[derive(Debug)]
pub struct Sockets {
    /// For the VMM.
    pub vmm: Endpoint,
    /// For the VMM too: the input devices.
    pub inputs: Vec<(InputKind, UnixListener)>,
    /// For questions.
    pub control: Option<UnixListener>,
    /// For the manager of time slices.
    pub arbiter: Option<UnixListener>,
    /// For VNC clients, with the head they see.
    pub vnc: Vec<(TcpListener, u8)>,
    /// For browsers, with the head they see.
    pub web: Vec<(TcpListener, u8)>,
    /// The files of those that were bound.
    pub made: Made,
}

/// Socket files, which go with this. Each is held open until then, so that nobody can have taken its place.
#[derive(Debug, Default)]
pub struct Made(Vec<(PathBuf, UnixListener)>);

impl Drop for Made {
    fn drop(&mut self) {
        for (path, _) in &self.0 {
            // What brought us here is what the user must read; and a device that is locked in may not.
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Sockets {
    /// Takes what was passed and binds what `config` names: the ports first, because they leave nothing behind.
    pub fn open(config: &Config) -> Result<Self> {
        let mut made = Made::default();
        let vnc = config.sinks.vnc.iter().map(listen_tcp).collect::<Result<_>>()?;
        let web = config.sinks.web.iter().map(listen_tcp).collect::<Result<_>>()?;
        // Who may ask may see the screen: nobody but the owner.
        let private = Mode::XUSR | Mode::RWXG | Mode::RWXO;
        config.patterns.iter().for_each(|pattern| sweep(pattern));
        let control = config.control_socket.as_deref().map(|path| made.listen(path, private)).transpose()?;
        let arbiter = config.arbiter_socket.as_deref().map(|path| made.listen(path, private)).transpose()?;
        let inputs = config.inputs.iter();
        let inputs = inputs.map(|input| Ok((input.kind, made.listen(&input.path, Mode::empty())?)));
        let inputs = inputs.collect::<Result<_>>()?;
        let vmm = match &config.endpoint {
            Place::Inherited(fd) => Endpoint::Connection(inherited::unix_socket(*fd, SocketType::STREAM)?.into()),
            Place::Listen(path) => Endpoint::Listener(made.listen(path, Mode::empty())?),
        };
        Ok(Sockets { vmm, inputs, control, arbiter, vnc, web, made })
    }
}

impl Made {
    fn listen(&mut self, path: &Path, without: Mode) -> Result<UnixListener> {
        if path.symlink_metadata().is_ok() && !is_listened_to(path)? {
            std::fs::remove_file(path)
                .with_context(|| format!("Cannot replace the stale socket {}", path.display()))?;
        }
        let usual = umask(Mode::from_raw_mode(0o777));
        umask(usual | without);
        let listener = UnixListener::bind(path);
        umask(usual);
        let listener = listener.with_context(|| format!("Cannot listen on {}", path.display()))?;
        self.0.push((path.to_owned(), listener.try_clone().context("Cannot hold a socket")?));
        Ok(listener)
    }
}

/// Removes the sockets that devices which shared these words left behind: a device that is locked in cannot remove its own.
fn sweep(pattern: &Path) {
    let Some((before, after)) = pattern.file_name().and_then(|name| name.to_str()?.split_once(PID)) else { return };
    let is_left_behind = |entry: &DirEntry| {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(before)?.strip_suffix(after)?.parse::<u32>().ok());
        pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
            && entry.file_type().is_ok_and(|kind| kind.is_socket())
            && is_listened_to(&entry.path()).is_ok_and(|listens| !listens)
    };
    for entry in folder_of(pattern).read_dir().into_iter().flatten().flatten().filter(is_left_behind) {
        // Another user's stays.
        let _ = std::fs::remove_file(entry.path());
    }
}

fn listen_tcp(&Listen { address, head }: &Listen) -> Result<(TcpListener, u8)> {
    match TcpListener::bind(address) {
        Ok(listener) => Ok((listener, head)),
        Err(error) => bail!("Cannot listen on {address}: {}", why_no_port(&error, address)),
    }
}

fn why_no_port(error: &Error, address: SocketAddr) -> String {
    match error.kind() {
        ErrorKind::AddrInUse => "another program has that port; choose another, or 0 for any free one".to_owned(),
        ErrorKind::AddrNotAvailable => format!("this machine has no address {}", address.ip()),
        ErrorKind::PermissionDenied => "ports below 1024 are root's; choose one from 1024".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Options;
    use std::ffi::OsString;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;
    use tempfile::tempdir;

    fn config(words: &[String]) -> Config {
        let words = std::iter::once("beamsplit-device").chain(words.iter().map(String::as_str)).map(OsString::from);
        Config::load(Options::parse_words(words).unwrap()).unwrap()
    }

    fn listening_on(path: &Path) -> Config {
        config(&[format!("--socket-path={}", path.display())])
    }

    fn refusal(config: &Config) -> String {
        let message = format!("{:#}", check(config).unwrap_err());
        assert!(!message.contains('\n'), "{message}");
        message
    }

    #[test]
    fn a_missing_folder_is_named_with_the_command_that_makes_it() {
        let folder = tempdir().unwrap();
        let message = refusal(&listening_on(&folder.path().join("none/x.sock")));
        assert!(message.contains("mkdir -p") && message.contains("/none"), "{message}");
    }

    #[test]
    fn what_is_no_socket_is_never_replaced() {
        let folder = tempdir().unwrap();
        let path = folder.path().join("precious");
        std::fs::write(&path, "data").unwrap();
        assert!(refusal(&listening_on(&path)).contains("something else than a socket"));
        assert_eq!(std::fs::read(&path).unwrap(), b"data");
    }

    #[test]
    fn an_occupied_socket_is_refused_and_its_owner_not_disturbed() {
        let folder = tempdir().unwrap();
        let path = folder.path().join("x.sock");
        let owner = UnixListener::bind(&path).unwrap();
        assert!(refusal(&listening_on(&path)).contains("another program"));
        owner.set_nonblocking(true).unwrap();
        assert_eq!(owner.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    }

    #[test]
    fn a_stale_socket_is_replaced() {
        let folder = tempdir().unwrap();
        let path = folder.path().join("x.sock");
        drop(UnixListener::bind(&path).unwrap());
        let config = listening_on(&path);
        check(&config).unwrap();
        let _sockets = Sockets::open(&config).unwrap();
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn sockets_of_devices_that_have_gone_are_swept_away_and_nothing_else() {
        let folder = tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        // No process has a number above 2^22.
        let (gone, alive) = ("b-5000000.sock", format!("b-{}.sock", std::process::id()));
        for name in [gone, &alive, "b-x.sock", "a-5000000.sock"] {
            drop(UnixListener::bind(path(name)).unwrap());
        }
        let _listens = UnixListener::bind(path("b-5000001.sock")).unwrap();
        std::fs::write(path("b-5000002.sock"), "no socket").unwrap();
        sweep(&path("b-{pid}.sock"));
        assert!(!path(gone).exists());
        for name in [&alive, "b-x.sock", "a-5000000.sock", "b-5000001.sock", "b-5000002.sock"] {
            assert!(path(name).exists(), "{name}");
        }
    }

    #[test]
    fn a_long_path_is_refused_before_the_kernel_cuts_it() {
        let message = refusal(&listening_on(Path::new(&format!("/tmp/{}", "x".repeat(103)))));
        assert!(message.contains("108 bytes, at most 107"), "{message}");
    }

    #[test]
    fn one_path_does_not_serve_two_purposes() {
        let folder = tempdir().unwrap();
        let words = |options: [&str; 3]| {
            let word = |(option, name): (&str, &str)| format!("{option}={}", folder.path().join(name).display());
            let mut words: Vec<_> = options.into_iter().zip(["x", "x", "y"]).map(word).collect();
            words.push("--display=web=0".to_owned());
            words
        };
        let [vmm, control, input] = ["--socket-path", "--control-socket", "--input-socket"];
        for options in [[vmm, control, input], [vmm, input, control], [input, control, vmm]] {
            let message = refusal(&config(&words(options)));
            assert!(message.contains("name two") && message.contains(options[1]), "{message}");
        }
        check(&config(&words([vmm, "--name", control]))).unwrap();
    }

    #[test]
    fn tokens_that_others_can_read_are_refused_with_the_command_that_hides_them() {
        let folder = tempdir().unwrap();
        let path = folder.path().join("tokens");
        let config = || config(&["--fd=3".into(), "--display=web=0".into(), format!("--tokens={}", path.display())]);
        assert!(refusal(&config()).contains("tokens"));
        std::fs::write(&path, "").unwrap();
        for (mode, named) in [(0o644, "chmod 600"), (0o620, "chmod 600")] {
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            assert!(refusal(&config()).contains(named));
        }
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        check(&config()).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(refusal(&config()).contains("not an ordinary file"));
    }

    #[test]
    fn a_capture_must_be_an_ordinary_file() {
        let folder = tempdir().unwrap();
        let capture = |path: &Path| config(&["--fd=3".into(), format!("--display=capture={}", path.display())]);
        assert!(refusal(&capture(folder.path())).contains("not an ordinary file"));
        assert!(refusal(&capture(Path::new("/dev/full"))).contains("not an ordinary file"));
        check(&capture(&folder.path().join("screen.png"))).unwrap();
    }

    #[test]
    fn a_taken_port_is_refused_and_leaves_no_socket_file() {
        let folder = tempdir().unwrap();
        let path = folder.path().join("x.sock");
        let owner = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = owner.local_addr().unwrap();
        let config = config(&[format!("--socket-path={}", path.display()), format!("--display=vnc={address}")]);
        let message = format!("{:#}", Sockets::open(&config).unwrap_err());
        assert!(message.contains(&address.to_string()) && message.contains("another program"), "{message}");
        assert!(!path.exists());
    }

    #[test]
    fn files_go_with_their_owner_and_nobody_takes_their_place_before() {
        let folder = tempdir().unwrap();
        let path = folder.path().join("x.sock");
        let Sockets { vmm, made, .. } = Sockets::open(&listening_on(&path)).unwrap();
        drop(vmm);
        assert!(Sockets::open(&listening_on(&path)).is_err());
        assert!(path.exists());
        drop(made);
        assert!(!path.exists());
    }

    #[test]
    fn the_control_socket_and_the_managers_are_their_owners_alone() {
        let folder = tempdir().unwrap();
        let path = folder.path().join("c.sock");
        let vmm = format!("--socket-path={}", folder.path().join("x.sock").display());
        let arbiter = folder.path().join("a.sock");
        let words = [format!("--control-socket={}", path.display()), format!("--arbiter-socket={}", arbiter.display())];
        let config = config(&[[vmm, "--virgl".to_owned()], words].concat());
        let _sockets = Sockets::open(&config).unwrap();
        for path in [path, arbiter] {
            assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
        }
    }
}
