//! Processes that draw 3D, as the locked-in device asks its launcher for them.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use renderer::isolated::{Children, Ended};
use renderer::library::Kind;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use serde::Serialize;
use serde_json::{Value, json};

use crate::launcher::message::{News, Order, Received, receive, send};

/// What is known of the processes of one kind, for `/v1/stats`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
struct Life {
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    starts: u64,
    ends: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_end: Option<String>,
}

/// The lives of both kinds, for whoever asks.
#[derive(Debug, Clone, Default)]
pub struct Lives(Arc<Mutex<[Life; 2]>>);

impl Lives {
    /// Both, by name.
    pub fn describe(&self) -> [(String, Value); 2] {
        let [gl, vk] = &*self.lock();
        [("gl".to_owned(), json!(gl)), ("vk".to_owned(), json!(vk))]
    }

    fn lock(&self) -> MutexGuard<'_, [Life; 2]> {
        // Whoever panicked wrote whole values.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, kind: Kind, change: impl FnOnce(&mut Life)) {
        let [gl, vk] = &mut *self.lock();
        change(match kind {
            Kind::Gl => gl,
            Kind::Vk => vk,
        });
    }
}

/// The render server of a library in our own process.
#[derive(Debug, Clone)]
pub struct Server(Arc<Mutex<Renderers>>);

impl Server {
    /// Starts it, once. Returns the socket to it, where it will be.
    pub fn start(&self) -> io::Result<OwnedFd> {
        self.lock().serve()
    }

    /// What is known of it.
    pub fn describe(&self) -> (String, Value) {
        let mut renderers = self.lock();
        // Nobody else takes in what the launcher says.
        renderers.ended();
        let [_, vk] = renderers.lives.describe();
        vk
    }

    fn lock(&self) -> MutexGuard<'_, Renderers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The device's end.
#[derive(Debug)]
pub struct Renderers {
    launcher: OwnedFd,
    next: u32,
    /// Those whose end was not told yet.
    alive: Vec<(u32, Kind)>,
    /// What the launcher has had no room for yet.
    unsaid: VecDeque<Order>,
    lives: Lives,
}

impl Renderers {
    /// `launcher` starts and ends them.
    pub fn new(launcher: OwnedFd) -> Self {
        Renderers { launcher, next: 0, alive: Vec::new(), unsaid: VecDeque::new(), lives: Lives::default() }
    }

    /// What becomes of them.
    pub fn lives(&self) -> Lives {
        self.lives.clone()
    }

    /// All there is, for a library in our own process.
    pub fn server(self) -> Server {
        Server(Arc::new(Mutex::new(self)))
    }

    fn serve(&mut self) -> io::Result<OwnedFd> {
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        self.ask(Kind::Vk, theirs, |id| Order::Serve { id })?;
        Ok(ours)
    }

    fn ask(&mut self, kind: Kind, socket: OwnedFd, order: impl FnOnce(u32) -> Order) -> io::Result<u32> {
        self.speak();
        let id = self.next;
        if !self.unsaid.is_empty() || !send(&self.launcher, &order(id), Some(socket.as_fd()))? {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.next += 1;
        self.alive.push((id, kind));
        self.lives.change(kind, |life| life.starts += 1);
        Ok(id)
    }

    fn speak(&mut self) {
        while let Some(order) = self.unsaid.front() {
            match send(&self.launcher, order, None) {
                Ok(true) => drop(self.unsaid.pop_front()),
                Ok(false) => return,
                // It is gone, and took them along.
                Err(_) => self.unsaid.clear(),
            }
        }
    }

    fn end(&mut self, id: u32, how: &str) -> Option<Ended> {
        let at = self.alive.iter().position(|(alive, _)| *alive == id)?;
        let (_, kind) = self.alive.remove(at);
        // Another one of the kind may run already: then its number is the one to know.
        let last = !self.alive.iter().any(|(_, other)| *other == kind);
        self.lives.change(kind, |life| {
            life.ends += 1;
            life.last_end = Some(how.to_owned());
            if last {
                life.pid = None;
            }
        });
        Some(Ended { id, how: how.to_owned() })
    }
}

impl Children for Renderers {
    fn start(&mut self, kind: Kind, socket: OwnedFd) -> io::Result<u32> {
        self.ask(kind, socket, |id| Order::Start { id, kind })
    }

    fn kill(&mut self, id: u32) {
        self.unsaid.push_back(Order::Kill { id });
        self.speak();
    }

    fn ended(&mut self) -> Vec<Ended> {
        let mut ended = Vec::new();
        loop {
            match receive(&self.launcher).0 {
                Received::Message(News::Started { id, pid }) => {
                    if let Some((_, kind)) = self.alive.iter().find(|(alive, _)| *alive == id) {
                        self.lives.change(*kind, |life| life.pid = Some(pid));
                    }
                }
                Received::Message(News::Ended { id, how }) => ended.extend(self.end(id, &how)),
                Received::Nothing => break,
                Received::End => {
                    let left: Vec<u32> = self.alive.iter().map(|(id, _)| *id).collect();
                    ended.extend(left.into_iter().filter_map(|id| self.end(id, "the launcher is gone")));
                    break;
                }
            }
        }
        self.speak();
        ended
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.launcher.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
    }

    fn say(launcher: &OwnedFd, news: &News) {
        assert!(send(launcher, news, None).unwrap());
    }

    #[test]
    fn a_process_is_asked_for_with_its_socket_and_known_until_its_end_is_told() {
        let (ours, launcher) = pair();
        let mut renderers = Renderers::new(ours);
        let lives = renderers.lives();
        let id = renderers.start(Kind::Gl, pair().0).unwrap();
        let (order, socket) = receive::<Order>(&launcher);
        assert_eq!(order, Received::Message(Order::Start { id, kind: Kind::Gl }));
        assert!(socket.is_some());
        say(&launcher, &News::Started { id, pid: 7 });
        assert!(renderers.ended().is_empty());
        assert_eq!(lives.describe()[0].1, json!({ "pid": 7, "starts": 1, "ends": 0 }));
        renderers.kill(id);
        assert_eq!(receive::<Order>(&launcher).0, Received::Message(Order::Kill { id }));
        say(&launcher, &News::Ended { id, how: "killed by signal 9".into() });
        assert_eq!(renderers.ended(), [Ended { id, how: "killed by signal 9".into() }]);
        assert_eq!(lives.describe()[0].1, json!({ "starts": 1, "ends": 1, "last_end": "killed by signal 9" }));
        assert_eq!(lives.describe()[1].1, json!({ "starts": 0, "ends": 0 }));
    }

    #[test]
    fn a_render_server_is_asked_for_once_and_known_by_its_process() {
        let (ours, launcher) = pair();
        let server = Renderers::new(ours).server();
        server.start().unwrap();
        let (order, socket) = receive::<Order>(&launcher);
        assert_eq!(order, Received::Message(Order::Serve { id: 0 }));
        assert!(socket.is_some());
        say(&launcher, &News::Started { id: 0, pid: 7 });
        assert_eq!(server.describe(), ("vk".to_owned(), json!({ "pid": 7, "starts": 1, "ends": 0 })));
        drop(launcher);
        assert!(server.start().is_err());
        assert_eq!(server.describe().1["last_end"], "the launcher is gone");
    }

    #[test]
    fn an_end_is_told_once_and_never_of_a_stranger() {
        let (ours, launcher) = pair();
        let mut renderers = Renderers::new(ours);
        let id = renderers.start(Kind::Vk, pair().0).unwrap();
        for id in [id, id, 99] {
            say(&launcher, &News::Ended { id, how: String::new() });
        }
        assert_eq!(renderers.ended().len(), 1);
    }

    #[test]
    fn with_the_launcher_all_are_gone() {
        let (ours, launcher) = pair();
        let mut renderers = Renderers::new(ours);
        let ids = [Kind::Gl, Kind::Vk].map(|kind| renderers.start(kind, pair().0).unwrap());
        drop(launcher);
        assert_eq!(renderers.ended().iter().map(|ended| ended.id).collect::<Vec<_>>(), ids);
        assert!(renderers.start(Kind::Gl, pair().0).is_err());
        renderers.kill(ids[0]);
    }
}
