//! A terminal on which each picture takes the place of the one before.

use std::fmt::Write;
use std::io::{self, IsTerminal};
use std::pin::pin;

use anyhow::{Context, Result};
use rustix::termios::{self, LocalModes, OptionalActions, Termios};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::output;
use crate::table::clipped;

/// What happened while it was waited.
enum News<T> {
    /// What it was waited for.
    Came(T),
    /// The terminal has another size, or was somebody else's meanwhile.
    Size,
    /// It is enough.
    End,
}

/// The terminal; as it was before, when this is dropped.
pub struct Screen {
    runtime: Runtime,
    interrupt: Signal,
    terminate: Signal,
    quit: Signal,
    resized: Signal,
    continued: Signal,
    keys: Option<Keys>,
    begun: bool,
}

impl Screen {
    /// Takes the terminal.
    pub fn new() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("Cannot start a runtime")?;
        let entered = runtime.enter();
        let hear = |kind| signal(kind).context("Cannot prepare for signals");
        let interrupt = hear(SignalKind::interrupt())?;
        let terminate = hear(SignalKind::terminate())?;
        let quit = hear(SignalKind::quit())?;
        let resized = hear(SignalKind::window_change())?;
        let continued = hear(SignalKind::from_raw(libc::SIGCONT))?;
        let keys = Keys::listen();
        drop(entered);
        Ok(Screen { runtime, interrupt, terminate, quit, resized, continued, keys, begun: false })
    }

    /// Shows as much of a text as fits.
    pub fn show(&mut self, text: &str) -> Result<()> {
        // What was there before the first one stays above it, for who scrolls back.
        let (mut picture, size) = (String::new(), size());
        if !std::mem::replace(&mut self.begun, true) {
            picture.extend(std::iter::repeat_n('\n', size.map_or(0, |(_, rows)| rows.saturating_sub(1))));
        }
        picture += &framed(text, size);
        output::write(picture.as_bytes())
    }

    /// Waits for something with this picture on the screen; `None`: somebody has enough.
    pub fn until<T>(&mut self, picture: &str, event: impl Future<Output = T>) -> Result<Option<T>> {
        let mut event = pin!(event);
        loop {
            match self.wait(event.as_mut()) {
                News::Came(what) => return Ok(Some(what)),
                News::Size if picture.is_empty() => {}
                News::Size => self.show(picture)?,
                News::End => return Ok(None),
            }
        }
    }

    fn wait<T>(&mut self, event: impl Future<Output = T>) -> News<T> {
        let Screen { runtime, interrupt, terminate, quit, resized, continued, keys, .. } = self;
        runtime.block_on(async {
            tokio::select! {
                what = event => News::Came(what),
                _ = interrupt.recv() => News::End,
                _ = terminate.recv() => News::End,
                _ = quit.recv() => News::End,
                _ = resized.recv() => News::Size,
                _ = continued.recv() => {
                    if let Some(keys) = keys {
                        keys.take();
                    }
                    News::Size
                }
                () = typed_enough(keys.as_ref()) => News::End,
            }
        })
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if self.begun {
            // What comes next has a line of its own.
            let _ = output::print("\n");
        }
    }
}

/// The columns and rows of the terminal; `None` where it does not know.
fn size() -> Option<(usize, usize)> {
    let size = termios::tcgetwinsize(io::stdout()).ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then_some((size.ws_col.into(), size.ws_row.into()))
}

/// A text that replaces what a terminal of this size shows: no line is broken, and the first one stays on the screen.
fn framed(text: &str, size: Option<(usize, usize)>) -> String {
    let (columns, rows) = size.unwrap_or((usize::MAX, usize::MAX));
    let all: Vec<&str> = text.lines().collect();
    let (shown, hidden) = match all.len() > rows {
        true => (rows - 1, all.len() - (rows - 1)),
        false => (all.len(), 0),
    };
    let more = format!("({hidden} more lines)");
    let lines = all[..shown].iter().copied().chain((hidden > 0).then_some(&*more));
    let mut picture = String::from("\x1b[H");
    for (number, line) in lines.enumerate() {
        // Where a line ends that was longer, its end is gone. There is no end of line behind the last, which would scroll.
        let before = if number > 0 { "\n" } else { "" };
        let _ = write!(picture, "{before}{}\x1b[K", clipped(line, columns));
    }
    picture.push_str("\x1b[J");
    picture
}

/// A keyboard of which each key is heard at once, and is not seen.
struct Keys {
    usual: Termios,
    input: AsyncFd<io::Stdin>,
}

impl Keys {
    #[expect(deprecated, reason = "what it is about holds: nobody closes the standard input")]
    fn listen() -> Option<Self> {
        let input = io::stdin();
        if !input.is_terminal() {
            return None;
        }
        let usual = termios::tcgetattr(&input).ok()?;
        let keys = Keys { usual, input: AsyncFd::with_interest(input, Interest::READABLE).ok()? };
        keys.take();
        Some(keys)
    }

    fn take(&self) {
        let mut silent = self.usual.clone();
        silent.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
        let _ = termios::tcsetattr(self.input.get_ref(), OptionalActions::Now, &silent);
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        let _ = termios::tcsetattr(self.input.get_ref(), OptionalActions::Now, &self.usual);
    }
}

/// Returns when somebody has enough.
async fn typed_enough(keys: Option<&Keys>) {
    let Some(keys) = keys else { return std::future::pending().await };
    loop {
        let Ok(mut ready) = keys.input.readable().await else { return };
        let mut typed = [0; 64];
        match rustix::io::read(keys.input.get_ref(), &mut typed) {
            Ok(length @ 1..) if !typed[..length].contains(&b'q') => ready.clear_ready(),
            Err(rustix::io::Errno::INTR) => {}
            // It was q, or nobody can type any more.
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_counted_and_nothing_scrolls() {
        let text = "a heading\none\ntwo\nthree\n";
        let framed = |columns, rows| framed(text, Some((columns, rows)));
        assert_eq!(framed(80, 24), "\x1b[Ha heading\x1b[K\none\x1b[K\ntwo\x1b[K\nthree\x1b[K\x1b[J");
        assert_eq!(framed(80, 4), framed(80, 24));
        assert_eq!(framed(20, 3), "\x1b[Ha heading\x1b[K\none\x1b[K\n(2 more lines)\x1b[K\x1b[J");
        assert_eq!(framed(3, 2), "\x1b[Ha h\x1b[K\n(3 \x1b[K\x1b[J");
        assert_eq!(framed(1, 1), "\x1b[H(\x1b[K\x1b[J");
    }

    #[test]
    fn a_terminal_that_does_not_know_its_size_is_given_all() {
        assert_eq!(framed("one\ntwo\n", None), "\x1b[Hone\x1b[K\ntwo\x1b[K\x1b[J");
    }
}
