//! `beamsplit top` on a terminal, whatever the manager does.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};

use support::{Home, PROGRAM, wait_until};

/// A manager of no vGPU, which answers so many requests and then none.
fn manager(home: &Home, answers: usize) {
    fs::create_dir(home.runtime()).unwrap();
    let listener = UnixListener::bind(home.socket()).unwrap();
    std::thread::spawn(move || {
        let mut silent = Vec::new();
        for (number, mut stream) in listener.incoming().map_while(Result::ok).enumerate() {
            let _ = stream.read(&mut [0; 1024]);
            if number < answers {
                let body = r#"{"version":1,"gpus":[],"vgpus":[]}"#;
                let length = body.len();
                let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}");
            } else {
                silent.push(stream);
            }
        }
    });
}

/// A terminal with `beamsplit top` on it, and after its end what became of it and of the terminal.
struct Terminal {
    process: Child,
    keys: ChildStdin,
    shown: Arc<Mutex<String>>,
}

impl Terminal {
    fn new(home: &Home) -> Self {
        let words = format!("{PROGRAM} top --interval 0.1 --runtime-dir {}", home.runtime().display());
        let line = format!("trap : INT QUIT TERM; {words}; echo \"It ended with $?\"; stty -a");
        let mut command = Command::new("script");
        command.args(["--quiet", "--command", &line, "/dev/null"]).env("SHELL", "/bin/sh");
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (keys, mut output) = (process.stdin.take().unwrap(), process.stdout.take().unwrap());
        let shown = Arc::new(Mutex::new(String::new()));
        let heard = shown.clone();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(length @ 1..) = output.read(&mut bytes) {
                heard.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..length]));
            }
        });
        Terminal { process, keys, shown }
    }

    fn shows(&self, text: &str) -> bool {
        self.shown.lock().unwrap().contains(text)
    }

    fn has_ended(&self, code: u32) {
        wait_until("it ends", || self.shows("It ended with") && self.shows("icanon") && self.shows("echo "));
        assert!(self.shows(&format!("It ended with {code}")), "{:?}", self.shown);
        assert!(!self.shows("-icanon") && !self.shows("-echo "), "{:?}", self.shown);
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn it_says_that_it_waits_for_the_manager_and_ends_at_once_when_it_is_told_to() {
    // At the first look, at the second one, and between two requests of one look.
    for (answers, key) in [(0, "\x03"), (2, "\x03"), (3, "q"), (0, "q"), (1, "\x1c"), (20, "\x03")] {
        let home = Home::new();
        manager(&home, answers);
        let mut terminal = Terminal::new(&home);
        wait_until("it says that it waits", || terminal.shows("Waiting for the manager"));
        assert_eq!(terminal.shows("What follows is old"), answers > 1, "{:?}", terminal.shown);
        terminal.keys.write_all(key.as_bytes()).unwrap();
        terminal.has_ended(0);
    }
}

#[test]
fn without_a_manager_it_says_so_and_ends() {
    let home = Home::new();
    let terminal = Terminal::new(&home);
    terminal.has_ended(1);
    assert!(terminal.shows("No manager listens"), "{:?}", terminal.shown);
}
