//! Unix sockets: the manager's, who may connect there, and what remains of a manager that was killed; those of others, and how
//! they are connected to.

use std::fs::{self, Permissions};
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::fs::{FileType, Gid, Mode, OFlags};
use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{geteuid, umask};

/// The group whose members may ask.
const GROUP: &str = "beamsplit";
/// Its owner and the group.
const MODE: u32 = 0o660;

/// Binds the socket at `path`. Whoever calls this holds the lock of the folder, so a socket that is there is a stale one.
pub fn bind(path: &Path) -> Result<UnixListener> {
    let cannot = || format!("Cannot listen on {}", path.display());
    match path.symlink_metadata() {
        Ok(there) if there.file_type().is_socket() => fs::remove_file(path).with_context(cannot)?,
        Ok(_) => bail!("{}: there is something else than a socket; move it away", cannot()),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(cannot),
    }
    // Nobody else may connect before it is known who may.
    let usual = umask(Mode::RWXG | Mode::RWXO);
    let listener = UnixListener::bind(path);
    umask(usual);
    let listener = listener.with_context(cannot)?;
    if let Some(group) = group(GROUP) {
        // Only root can give it away; another user's stays with the user.
        let _ = rustix::fs::chown(path, None, Some(Gid::from_raw(group)));
    }
    fs::set_permissions(path, Permissions::from_mode(MODE)).with_context(cannot)?;
    Ok(listener)
}

/// Connects to the very socket that has this name, of this user if one is named, without waiting for whoever listens there.
///
/// In a folder where others may write, the name may be that of a link, which could lead to anybody's socket, or through a folder
/// that never answers: none is followed. The folder itself may be one: see [`super::aside`].
pub fn connect(path: &Path, owner: Option<u32>) -> io::Result<UnixStream> {
    let there = hold(path, owner)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    net::connect(&socket, &SocketAddrUnix::new(name_of(&there))?)?;
    Ok(socket.into())
}

/// A hold on a socket's file, whatever becomes of its name. No link is followed.
pub fn hold(path: &Path, owner: Option<u32>) -> io::Result<OwnedFd> {
    let there = rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let stat = rustix::fs::fstat(&there)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
        return Err(io::Error::new(ErrorKind::ConnectionRefused, "It is no socket"));
    }
    if owner.is_some_and(|owner| owner != stat.st_uid) {
        return Err(io::Error::new(ErrorKind::PermissionDenied, "It is another user's"));
    }
    Ok(there)
}

/// A name of what is held.
pub fn name_of(held: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}", held.as_raw_fd()).into()
}

/// Who is at the other end.
#[derive(Debug, Clone, Copy)]
pub struct Peer {
    /// Its user.
    pub uid: u32,
    /// Its first group.
    pub gid: u32,
    /// Its process.
    pub pid: Option<i32>,
}

impl Peer {
    /// Whether it may ask: root, our own user, and members of the group.
    ///
    /// The file's mode says the same to all who come by it; this is for a socket that was bound by another, or whose mode
    /// somebody changed.
    pub fn may_ask(self) -> bool {
        if self.uid == 0 || self.uid == geteuid().as_raw() {
            return true;
        }
        let Some(group) = group(GROUP) else { return false };
        self.gid == group || self.pid.is_some_and(|pid| groups_of(pid, self.uid).contains(&group))
    }
}

/// The further groups of a process, if it is still this user's.
fn groups_of(pid: i32, uid: u32) -> Vec<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let numbers = |name: &str| -> Vec<u32> {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_default().split_ascii_whitespace().filter_map(|word| word.parse().ok()).collect()
    };
    if numbers("Uid:").get(1) == Some(&uid) { numbers("Groups:") } else { Vec::new() }
}

/// The number of a group, as the host's own file has it: no name service is asked, which could take its time.
pub fn group(name: &str) -> Option<u32> {
    let file = fs::read_to_string("/etc/group").ok()?;
    file.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok())?
    })
}

/// The user's name, else its number.
pub fn user_name(uid: u32) -> String {
    let file = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = file.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    });
    name.unwrap_or_else(|| uid.to_string())
}

/// Who is at the other end of this connection.
pub fn peer(stream: &tokio::net::UnixStream) -> io::Result<Peer> {
    let credentials = stream.peer_cred()?;
    Ok(Peer { uid: credentials.uid(), gid: credentials.gid(), pid: credentials.pid() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_socket_is_replaced_and_another_file_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("manager.sock");
        drop(bind(&path).unwrap());
        drop(bind(&path).unwrap());
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, MODE);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "notes").unwrap();
        assert!(bind(&path).unwrap_err().to_string().contains("something else"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "notes");
    }

    #[test]
    fn neither_a_link_nor_another_users_socket_is_connected_to() {
        let folder = tempfile::tempdir().unwrap();
        let [own, link, file] = ["own", "link", "file"].map(|name| folder.path().join(name));
        let listener = UnixListener::bind(&own).unwrap();
        listener.set_nonblocking(true).unwrap();
        std::os::unix::fs::symlink(&own, &link).unwrap();
        fs::write(&file, "").unwrap();
        let user = geteuid().as_raw();
        for (path, owner) in [(&link, None), (&file, None), (&own, Some(user + 1))] {
            assert!(connect(path, owner).is_err());
        }
        assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock, "somebody came");
        connect(&own, Some(user)).unwrap();
        listener.accept().unwrap();
    }

    #[test]
    fn a_path_that_no_address_takes_is_connected_to() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("d".repeat(120));
        fs::create_dir(&deep).unwrap();
        let _listener = UnixListener::bind(folder.path().join("s")).unwrap();
        fs::rename(folder.path().join("s"), deep.join("s")).unwrap();
        connect(&deep.join("s"), None).unwrap();
    }

    #[test]
    fn a_stranger_may_not_ask() {
        let stranger = Peer { uid: 65_534, gid: 65_534, pid: None };
        assert!(!stranger.may_ask());
        assert!(Peer { uid: 0, ..stranger }.may_ask());
        assert!(Peer { uid: geteuid().as_raw(), ..stranger }.may_ask());
        assert!(groups_of(std::process::id() as i32, geteuid().as_raw() + 1).is_empty());
    }
}
