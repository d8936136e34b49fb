//! The command line of `beamsplit viewer`.

use std::os::fd::RawFd;
use std::path::PathBuf;
use std::str::FromStr;

use frames::ViewerEnd;

use crate::listen::{ListenAddress, ListenFd};
use crate::tokens::TokensFile;
use crate::{Options, RunError, Window, listen};

/// Shows a VM's screen over VNC, on a web page and in a window, and takes keys and a pointer to it.
///
/// Only this host can connect (use ssh -L from elsewhere). Without --tokens everybody on it may look and type.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The socket to the device, inherited from whoever started both
    #[arg(long, value_name = "N")]
    pub fd: RawFd,

    /// Listen for VNC clients: `[HOST:]PORT[,head=N]`
    #[arg(long, value_name = "ADDR")]
    pub vnc: Vec<ListenAddress>,

    /// Serve the web page: `[HOST:]PORT[,head=N]`
    #[arg(long, value_name = "ADDR")]
    pub web: Vec<ListenAddress>,

    /// Take VNC clients from an inherited listening socket: N[,head=N]
    #[arg(long, value_name = "N")]
    pub vnc_fd: Vec<ListenFd>,

    /// Serve the web page on an inherited listening socket: N[,head=N]
    #[arg(long, value_name = "N")]
    pub web_fd: Vec<ListenFd>,

    /// Open a window for each head on this desktop: fullscreen[=MONITOR] for all of a monitor (its name or number)
    #[arg(long, value_name = "SPEC", num_args = 0..=1, require_equals = true, default_missing_value = "plain")]
    pub window: Option<WindowSpec>,

    /// The lasting socket to the VM's keyboard and pointer, inherited
    #[arg(long, value_name = "N")]
    pub input_fd: Option<RawFd>,

    /// The lasting socket to the VM's touch screen, inherited
    #[arg(long, value_name = "N")]
    pub touch_fd: Option<RawFd>,

    /// Let only those in who know a token of this file: control = ["..."] may type, look = ["..."] may only look
    #[arg(long, value_name = "FILE")]
    pub tokens: Option<PathBuf>,

    /// Name to show instead of the one that the device says
    #[arg(long)]
    pub name: Option<String>,
}

impl Args {
    /// Opens everything that the words name.
    pub fn open(self) -> Result<Options, RunError> {
        let inherited = |fd| listen::inherited(fd).map_err(|source| RunError::Fd { fd, source });
        let device = ViewerEnd::new(inherited(self.fd)?)?;
        let input = self.input_fd.map(inherited).transpose()?;
        let touch = self.touch_fd.map(inherited).transpose()?;
        let tokens = self.tokens.as_deref().map(TokensFile::open).transpose()?;
        let (mut vnc, mut web) = (Vec::new(), Vec::new());
        for address in &self.vnc {
            vnc.push(address.bind()?);
        }
        for address in &self.web {
            web.push(address.bind()?);
        }
        for fd in self.vnc_fd {
            vnc.push(fd.take()?);
        }
        for fd in self.web_fd {
            web.push(fd.take()?);
        }
        // Connects to the display server: later, when the process is locked in, it could not.
        let window = self.window.and_then(Window::open);
        Ok(Options { device, vnc, web, window, input, touch, tokens, name: self.name })
    }
}

/// How the window begins: the word after `--window=`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WindowSpec {
    /// Fills a monitor.
    pub fullscreen: Option<Monitor>,
}

/// A monitor of the desktop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Monitor {
    /// Where the window is.
    Here,
    /// Counted from 0.
    Number(usize),
    /// As the desktop calls it.
    Named(String),
}

/// A word after `--window=` that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no way to open a window: use fullscreen, or fullscreen=MONITOR with its name or number")]
pub struct NoWindow(String);

impl FromStr for WindowSpec {
    type Err = NoWindow;

    fn from_str(text: &str) -> Result<Self, NoWindow> {
        let fullscreen = match text.split_once('=').unwrap_or((text, "")) {
            ("" | "plain", "") if !text.contains('=') => None,
            ("fullscreen", "") if !text.contains('=') => Some(Monitor::Here),
            ("fullscreen", monitor) if !monitor.is_empty() => {
                Some(monitor.parse().map_or_else(|_| Monitor::Named(monitor.to_owned()), Monitor::Number))
            }
            _ => return Err(NoWindow(text.to_owned())),
        };
        Ok(Self { fullscreen })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Words {
        #[command(flatten)]
        args: Args,
    }

    fn window(words: &[&str]) -> Result<Option<WindowSpec>, clap::Error> {
        let words = ["viewer", "--fd", "3"].iter().chain(words);
        Words::try_parse_from(words).map(|words| words.args.window)
    }

    #[test]
    fn a_window_is_asked_for_in_one_word() {
        let on = |monitor| Some(WindowSpec { fullscreen: Some(monitor) });
        assert_eq!(window(&[]).unwrap(), None);
        assert_eq!(window(&["--window"]).unwrap(), Some(WindowSpec::default()));
        assert_eq!(window(&["--window=fullscreen"]).unwrap(), on(Monitor::Here));
        assert_eq!(window(&["--window=fullscreen=1"]).unwrap(), on(Monitor::Number(1)));
        assert_eq!(window(&["--window=fullscreen=DP-1"]).unwrap(), on(Monitor::Named("DP-1".into())));
        assert_eq!(window(&["--window", "--name", "vm"]).unwrap(), Some(WindowSpec::default()));
        for wrong in ["--window=fullscreen=", "--window=full", "--window==", "--window=full=1"] {
            assert!(window(&[wrong]).unwrap_err().to_string().contains("fullscreen=MONITOR"), "{wrong}");
        }
    }
}
