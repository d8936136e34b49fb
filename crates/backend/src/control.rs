//! The control socket: questions about this vGPU, asked over HTTP on a Unix socket that only its owner can open.
//!
//! One thread serves up to [`CLIENTS`] connections at once; none of them, whatever it does, can hold up another for
//! longer than an answer takes to be made, nor ever the device's thread.

mod http;
pub mod mailbox;
mod routes;

use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use http::Response;
use mailbox::{Answer, Asker, Token};
use routes::{Action, reply, route};
pub use routes::{Facts, Sections};

/// Connections served at once. More wait in the listener's queue. Stops a client that opens thousands.
const CLIENTS: usize = 16;
/// How long one request may take from its first byte to the last of its answer. Stops one that says nothing.
const PATIENCE: Duration = Duration::from_secs(5);

/// The control socket and what it needs to answer.
pub struct Server {
    /// Where clients come.
    pub listener: UnixListener,
    /// The way to the device's thread.
    pub asker: Asker,
    /// What can be said without it.
    pub facts: Facts,
}

impl Server {
    /// Serves on a thread of its own, for the life of the process.
    pub fn start(self) -> std::io::Result<JoinHandle<()>> {
        self.listener.set_nonblocking(true)?;
        let mut clients = Clients::new(self);
        std::thread::Builder::new().name("questions".to_owned()).spawn(move || {
            loop {
                if let Err(error) = clients.turn() {
                    tracing::error!("The control socket ends: {error}");
                    return;
                }
            }
        })
    }
}

struct Client {
    stream: UnixStream,
    until: Instant,
    state: State,
}

enum State {
    Reading(Vec<u8>),
    /// For an answer; a picture is to be no wider than this.
    Waiting(Token, u32),
    Writing(Vec<u8>, usize),
    Ended,
}

impl Client {
    fn wants(&self) -> PollFlags {
        match self.state {
            State::Reading(_) => PollFlags::IN,
            State::Writing(..) => PollFlags::OUT,
            // A hang-up is reported all the same.
            State::Waiting(..) | State::Ended => PollFlags::empty(),
        }
    }

    fn respond(&mut self, response: &Response) {
        self.state = State::Writing(response.encode(), 0);
        self.write();
    }

    fn write(&mut self) {
        let State::Writing(bytes, at) = &mut self.state else { return };
        loop {
            match self.stream.write(&bytes[*at..]) {
                Ok(0) => break,
                Ok(length) => *at += length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        self.state = State::Ended;
    }
}

struct Clients {
    server: Server,
    open: Vec<Client>,
    next: Token,
    /// Until then nobody is accepted: the last try failed, and would at once again.
    rest: Option<Instant>,
}

impl Clients {
    fn new(server: Server) -> Self {
        Clients { server, open: Vec::new(), next: 0, rest: None }
    }

    /// Waits until something can be done and does it.
    fn turn(&mut self) -> Result<(), Errno> {
        let ready = self.wait()?;
        if ready.answers {
            while let Some((token, answer)) = self.server.asker.answer() {
                self.take_answer(token, answer);
            }
        }
        for (index, flags) in ready.clients {
            self.serve(index, flags);
        }
        let now = Instant::now();
        self.end_overdue(now);
        self.rest = self.rest.filter(|rest| *rest > now);
        if ready.listener {
            self.accept();
        }
        Ok(())
    }

    fn wait(&self) -> Result<Ready, Errno> {
        let listens = self.open.len() < CLIENTS && self.rest.is_none();
        let listens = if listens { PollFlags::IN } else { PollFlags::empty() };
        let mut fds = vec![
            PollFd::from_borrowed_fd(self.server.asker.fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.server.listener.as_fd(), listens),
        ];
        fds.extend(self.open.iter().map(|client| PollFd::from_borrowed_fd(client.stream.as_fd(), client.wants())));
        let patience = self.open.iter().map(|client| client.until).chain(self.rest).min();
        let patience = patience.map(|until| timespec(until.saturating_duration_since(Instant::now())));
        match poll(&mut fds, patience.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
        let mut flags = fds.iter().map(PollFd::revents);
        Ok(Ready {
            answers: flags.next().is_some_and(|flags| !flags.is_empty()),
            listener: flags.next().is_some_and(|flags| !flags.is_empty()),
            clients: flags.enumerate().filter(|(_, flags)| !flags.is_empty()).collect(),
        })
    }

    fn accept(&mut self) {
        while self.open.len() < CLIENTS {
            match self.server.listener.accept() {
                Ok((stream, _)) if stream.set_nonblocking(true).is_ok() => {
                    let until = Instant::now() + PATIENCE;
                    self.open.push(Client { stream, until, state: State::Reading(Vec::new()) });
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Ok(_) | Err(_) => {
                    self.rest = Some(Instant::now() + PATIENCE);
                    return;
                }
            }
        }
    }

    fn serve(&mut self, index: usize, flags: PollFlags) {
        let client = &mut self.open[index];
        match &mut client.state {
            State::Reading(bytes) => match read(&mut client.stream, bytes) {
                Reading::More => match http::parse(bytes) {
                    Ok(None) => {}
                    Ok(Some(request)) => match route(&request, &mut self.server.facts) {
                        Action::Reply(response) => client.respond(&response),
                        Action::Ask(question, widest) => {
                            self.next += 1;
                            client.state = State::Waiting(self.next, widest);
                            if !self.server.asker.ask(self.next, question) {
                                client.respond(&Response::error(503, "Too many questions wait already: ask again"));
                            }
                        }
                    },
                    Err(refusal) => client.respond(&refusal),
                },
                Reading::Nothing => {}
                Reading::End => client.state = State::Ended,
            },
            State::Writing(..) => client.write(),
            State::Waiting(..) if flags.intersects(PollFlags::HUP | PollFlags::ERR) => client.state = State::Ended,
            State::Waiting(..) | State::Ended => {}
        }
    }

    fn take_answer(&mut self, token: Token, answer: Answer) {
        // Who asked may have gone.
        for client in &mut self.open {
            if let State::Waiting(waiting, widest) = client.state
                && waiting == token
            {
                client.respond(&reply(answer, widest));
                return;
            }
        }
    }

    /// Ends who took too long, and forgets who ended.
    fn end_overdue(&mut self, now: Instant) {
        for client in self.open.iter_mut().filter(|client| client.until <= now) {
            match client.state {
                State::Waiting(..) => client.respond(&Response::error(504, "The device is busy: ask again")),
                State::Reading(_) => client.respond(&Response::error(408, "The request never ended")),
                State::Writing(..) | State::Ended => {}
            }
            // What the socket took of it has to do.
            client.state = State::Ended;
        }
        self.open.retain(|client| !matches!(client.state, State::Ended));
    }
}

struct Ready {
    answers: bool,
    listener: bool,
    clients: Vec<(usize, PollFlags)>,
}

enum Reading {
    More,
    Nothing,
    End,
}

fn read(stream: &mut UnixStream, bytes: &mut Vec<u8>) -> Reading {
    let mut piece = [0; 1024];
    match stream.read(&mut piece) {
        Ok(0) => Reading::End,
        Ok(length) => {
            bytes.extend_from_slice(&piece[..length.min(http::MAX_REQUEST.saturating_sub(bytes.len()))]);
            Reading::More
        }
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Reading::Nothing,
        Err(_) => Reading::End,
    }
}

fn timespec(duration: Duration) -> Timespec {
    // One more nanosecond than asked for cannot matter; a wait that ends too early would turn once more.
    Timespec { tv_sec: duration.as_secs() as i64, tv_nsec: i64::from(duration.subsec_nanos()) }
}

#[cfg(test)]
mod tests {
    use super::mailbox::{Inbox, Question, mailbox};
    use super::*;
    use device::gpu::Capture;
    use protocol::Format;
    use std::path::PathBuf;
    use tempfile::TempDir;

    struct Bed {
        clients: Clients,
        inbox: Inbox,
        path: PathBuf,
        _folder: TempDir,
    }

    impl Bed {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("c.sock");
            let listener = UnixListener::bind(&path).unwrap();
            listener.set_nonblocking(true).unwrap();
            let (asker, inbox) = mailbox().unwrap();
            let facts =
                Facts { name: "vm7".to_owned(), started: Instant::now(), sections: Box::new(serde_json::Map::new) };
            Bed { clients: Clients::new(Server { listener, asker, facts }), inbox, path, _folder: folder }
        }

        fn connect(&mut self) -> UnixStream {
            let stream = UnixStream::connect(&self.path).unwrap();
            self.clients.turn().unwrap();
            stream
        }

        fn ask(&mut self, request: &str) -> UnixStream {
            let mut stream = self.connect();
            stream.write_all(request.as_bytes()).unwrap();
            self.clients.turn().unwrap();
            stream
        }

        fn answer(&mut self, answer: Answer) -> Question {
            let (token, question) = self.inbox.question().unwrap();
            self.inbox.answer(token, answer);
            self.clients.turn().unwrap();
            question
        }
    }

    fn text(mut stream: UnixStream) -> String {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    #[test]
    fn stats_are_answered_without_the_device() {
        let mut bed = Bed::new();
        let answer = text(bed.ask("GET /v1/stats HTTP/1.1\r\n\r\n"));
        assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.contains("\"name\":\"vm7\""), "{answer}");
        assert_eq!(bed.inbox.question(), None);
    }

    #[test]
    fn a_question_waits_for_the_devices_answer() {
        let mut bed = Bed::new();
        let body = r#"{"width":1024,"height":768}"#;
        let stream = bed.ask(&format!("POST /v1/resize HTTP/1.1\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
        assert_eq!(bed.answer(Answer::Done), Question::Resize { head: 0, width: 1024, height: 768 });
        assert!(text(stream).starts_with("HTTP/1.1 200 OK"));
    }

    #[test]
    fn answers_find_their_askers_in_any_order() {
        let mut bed = Bed::new();
        let first = bed.ask("GET /v1/heads HTTP/1.1\r\n\r\n");
        let second = bed.ask("GET /v1/screenshot?head=1 HTTP/1.1\r\n\r\n");
        let (one, two) = (bed.inbox.question().unwrap(), bed.inbox.question().unwrap());
        bed.inbox.answer(two.0, Answer::Missing("dark"));
        bed.inbox.answer(one.0, Answer::Heads(Vec::new()));
        bed.clients.turn().unwrap();
        assert!(text(first).contains("\"heads\":[]"));
        assert!(text(second).starts_with("HTTP/1.1 404"));
    }

    #[test]
    fn silent_clients_leave_room_for_another() {
        let mut bed = Bed::new();
        let silent: Vec<_> = (1..CLIENTS).map(|_| bed.connect()).collect();
        assert!(text(bed.ask("GET /v1/stats HTTP/1.1\r\n\r\n")).starts_with("HTTP/1.1 200 OK"));
        bed.clients.end_overdue(Instant::now() + PATIENCE);
        silent.into_iter().for_each(|stream| assert!(text(stream).starts_with("HTTP/1.1 408")));
    }

    #[test]
    fn a_hundred_clients_take_no_more_than_their_places() {
        let mut bed = Bed::new();
        let many: Vec<_> = (0..100).map(|_| UnixStream::connect(&bed.path).unwrap()).collect();
        bed.clients.turn().unwrap();
        assert_eq!(bed.clients.open.len(), CLIENTS);
        drop(many);
        while !bed.clients.open.is_empty() {
            bed.clients.turn().unwrap();
        }
    }

    #[test]
    fn one_who_left_is_not_answered_and_disturbs_nobody() {
        let mut bed = Bed::new();
        drop(bed.ask("GET /v1/heads HTTP/1.1\r\n\r\n"));
        bed.clients.turn().unwrap();
        assert!(bed.clients.open.is_empty());
        let stream = bed.ask("GET /v1/heads HTTP/1.1\r\n\r\n");
        bed.answer(Answer::Missing("for the one who left"));
        bed.answer(Answer::Heads(Vec::new()));
        assert!(text(stream).contains("\"heads\":[]"));
    }

    #[test]
    fn a_busy_device_is_said_to_be_busy() {
        let mut bed = Bed::new();
        let stream = bed.ask("GET /v1/heads HTTP/1.1\r\n\r\n");
        bed.clients.end_overdue(Instant::now() + PATIENCE);
        assert!(text(stream).starts_with("HTTP/1.1 504"));
    }

    #[test]
    fn one_who_does_not_read_a_large_answer_holds_up_nobody() {
        let mut bed = Bed::new();
        let lazy = bed.ask("GET /v1/screenshot HTTP/1.1\r\n\r\n");
        let pixels = (0..1_000_000u32).map(|at| (at.wrapping_mul(0x9e37_79b9) >> 24) as u8).collect();
        bed.answer(Answer::Picture(Capture { format: Format::B8G8R8X8, width: 500, height: 500, pixels }));
        assert!(matches!(bed.clients.open[0].state, State::Writing(..)));
        assert!(text(bed.ask("GET /v1/stats HTTP/1.1\r\n\r\n")).starts_with("HTTP/1.1 200 OK"));
        bed.clients.end_overdue(Instant::now() + PATIENCE);
        assert!(text(lazy).starts_with("HTTP/1.1 200 OK"));
    }
}
