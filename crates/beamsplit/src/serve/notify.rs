//! What systemd is told (sd_notify(3)): a datagram to the socket that the environment names. Without one, nothing.

use std::ffi::OsString;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// How long there may be no room for what is said: any user of the host may write to where systemd hears it.
const PATIENCE: Duration = Duration::from_secs(1);

/// The way to whoever started us and wants to know.
#[derive(Debug)]
pub struct Notify {
    socket: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl Notify {
    /// As the environment says; `pid` is ours.
    pub fn from_environment(variable: impl Fn(&str) -> Option<OsString>, pid: u32) -> Self {
        let socket = variable("NOTIFY_SOCKET").and_then(|name| {
            let address = match name.as_bytes().strip_prefix(b"@") {
                Some(name) => SocketAddr::from_abstract_name(name),
                None => SocketAddr::from_pathname(&name),
            };
            let socket = UnixDatagram::unbound().ok()?;
            socket.set_write_timeout(Some(PATIENCE)).ok()?;
            Some((socket, address.ok()?))
        });
        // Without WATCHDOG_PID it is meant for whoever reads it.
        let number = |name| variable(name).and_then(|text| text.to_str()?.parse::<u64>().ok());
        let ours = number("WATCHDOG_PID").is_none_or(|wanted| wanted == u64::from(pid));
        let watchdog = number("WATCHDOG_USEC").filter(|period| ours && *period > 0).map(Duration::from_micros);
        Notify { socket, watchdog }
    }

    /// How often it must hear that we live, if at all: twice in the period that it grants.
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog.filter(|_| self.socket.is_some()).map(|period| period / 2)
    }

    /// Tells it something, as in `READY=1`. Nobody waits for an answer; that nobody hears it concerns nobody here.
    pub fn say(&self, state: &str) {
        if let Some((socket, address)) = &self.socket {
            let _ = socket.send_to_addr(state.as_bytes(), address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_arrives_at_a_path_and_at_an_abstract_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        // Nobody else's, in whichever PID namespace.
        let name = format!("beamsplit-test{}", path.display());
        let sockets = [
            (UnixDatagram::bind(&path).unwrap(), path.clone().into_os_string()),
            (
                UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap(),
                format!("@{name}").into(),
            ),
        ];
        for (socket, name) in sockets {
            let notify = Notify::from_environment(|wanted| (wanted == "NOTIFY_SOCKET").then(|| name.clone()), 1);
            notify.say("READY=1");
            let mut text = [0; 32];
            let length = socket.recv(&mut text).unwrap();
            assert_eq!(&text[..length], b"READY=1");
        }
    }

    #[test]
    fn who_hears_nothing_any_more_keeps_nobody_waiting() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let _deaf = UnixDatagram::bind(&path).unwrap();
        let crowd = UnixDatagram::unbound().unwrap();
        crowd.set_nonblocking(true).unwrap();
        while crowd.send_to(b"x", &path).is_ok() {}
        let name = path.into_os_string();
        Notify::from_environment(|wanted| (wanted == "NOTIFY_SOCKET").then(|| name.clone()), 1).say("WATCHDOG=1");
    }

    #[test]
    fn a_watchdog_is_fed_twice_a_period_and_only_by_whom_it_is_for() {
        let notify = |pid: &'static str| {
            let value = move |name: &str| match name {
                "NOTIFY_SOCKET" => Some("@x".into()),
                "WATCHDOG_USEC" => Some("3000000".into()),
                "WATCHDOG_PID" => Some(pid.into()),
                _ => None,
            };
            Notify::from_environment(value, 7).watchdog()
        };
        assert_eq!(notify("7"), Some(Duration::from_millis(1500)));
        assert_eq!(notify("8"), None);
        assert_eq!(Notify::from_environment(|_| None, 7).watchdog(), None);
    }
}
