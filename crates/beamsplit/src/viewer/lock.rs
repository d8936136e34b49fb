//! What meets the network keeps its sockets and can read the page it serves: nothing else of the host.

use std::path::PathBuf;

use anyhow::Result;
use jail::calls::Otherwise;
use jail::files::{self, Grant};

use super::calls;

/// Where noVNC can be: what the user names, the system's share, the one beside our own folder.
pub fn page_folders() -> Vec<PathBuf> {
    let said = std::env::var_os("BEAMSPLIT_NOVNC_DIR").map(PathBuf::from);
    let beside = std::env::current_exe().ok().and_then(|own| Some(own.parent()?.join("../share/novnc")));
    [said, Some("/usr/share/novnc".into()), beside].into_iter().flatten().collect()
}

/// Gives up every file but those below `readable`, executing, new ports and connections, signals to others, and every system
/// call that a viewer does not need. Threads that run already keep their files, so there should be none.
pub fn lock_in(readable: &[PathBuf]) -> Result<()> {
    // A folder that is not there needs no permission.
    let readable: Vec<Grant> = readable.iter().filter(|place| place.exists()).map(|place| Grant::read(place)).collect();
    if !files::allow_only(&readable)?.guards_files() {
        tracing::warn!("This kernel has no Landlock (Linux 5.13): the viewer can read all files of its user");
    }
    Ok(jail::calls::allow_only(calls::LIST, Otherwise::Refuse)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Error;
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::fs::FileExt;
    use std::process::Command;

    /// Its presence makes the test the process that is locked in: there is no way back.
    const FOLDER: &str = "BEAMSPLIT_TEST_VIEWER_FOLDER";

    fn outcome<T>(result: Result<T, Error>) -> &'static str {
        if result.is_ok() { "done" } else { "refused" }
    }

    #[test]
    fn a_viewer_serves_its_page_and_its_ports_and_reaches_nothing_else() {
        if let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let tokens = File::open(folder.join("secret")).unwrap();
            lock_in(&[folder.join("page"), folder.join("absent")]).unwrap();
            println!("page {}", outcome(File::open(folder.join("page/index.html"))));
            println!("port {}", outcome(listener.accept()));
            println!("neighbour {}", outcome(File::open(folder.join("secret"))));
            println!("write {}", outcome(File::create(folder.join("page/new"))));
            println!("execute {}", outcome(Command::new("/bin/true").status()));
            println!("bind {}", outcome(TcpListener::bind("127.0.0.1:0")));
            println!("connect {}", outcome(TcpStream::connect(client.peer_addr().unwrap())));
            println!("send {}", outcome(std::net::UdpSocket::bind("127.0.0.1:0")));
            println!("thread {}", outcome(std::thread::Builder::new().spawn(|| {})));
            println!("tokens {}", outcome(tokens.read_exact_at(&mut [0; 6], 0)));
            println!("replaced {}", outcome(std::fs::metadata(folder.join("secret"))));
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("page")).unwrap();
        std::fs::write(folder.path().join("page/index.html"), "page").unwrap();
        std::fs::write(folder.path().join("secret"), "secret").unwrap();
        let name = "viewer::lock::tests::a_viewer_serves_its_page_and_its_ports_and_reaches_nothing_else";
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(FOLDER, folder.path())
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        for line in [
            "page done",
            "port done",
            "neighbour refused",
            "write refused",
            "execute refused",
            "bind refused",
            "connect refused",
            "send refused",
            "thread done",
            "tokens done",
            "replaced done",
        ] {
            assert!(text.contains(line), "{line}: {text}{}", String::from_utf8_lossy(&output.stderr));
        }
    }
}
