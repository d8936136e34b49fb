//! The command line of `beamsplit viewer`.

use std::os::fd::RawFd;

use frames::ViewerEnd;

use crate::listen::{ListenAddress, ListenFd};
use crate::{Options, RunError, listen};

/// Shows a VM's screen over VNC and on a web page.
///
/// Nobody can type yet, and there is no password: only this host can connect (use ssh -L from elsewhere).
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

    /// Name to show instead of the one that the device says
    #[arg(long)]
    pub name: Option<String>,
}

impl Args {
    /// Opens everything that the words name.
    pub fn open(self) -> Result<Options, RunError> {
        let socket = listen::inherited(self.fd).map_err(|source| RunError::Fd { fd: self.fd, source })?;
        let device = ViewerEnd::new(socket)?;
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
        Ok(Options { device, vnc, web, name: self.name })
    }
}
