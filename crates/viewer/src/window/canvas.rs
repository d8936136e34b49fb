//! Where a window's pixels go: an X server's window, or a Wayland surface.

use super::picture::Picture;

/// What became of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Painted {
    /// What was new is on its way to the screen, if anything was.
    Shown,
    /// Nobody can see the window.
    Hidden,
}

/// Why a window cannot be drawn into any more.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    /// It is gone, or has gone mad.
    #[error("The X server does not answer any more: {0}")]
    Connection(#[from] x11rb::errors::ConnectionError),
    /// It does not do what we need.
    #[error("The X server refused: {0}")]
    Refused(#[from] x11rb::errors::ReplyError),
    /// Millions of windows later.
    #[error("The X server has no more numbers: {0}")]
    Numbers(#[from] x11rb::errors::ReplyOrIdError),
    /// No memory that can be shared with it.
    #[error(transparent)]
    Memory(#[from] frames::ImageError),
    /// The same for Wayland.
    #[error("The Wayland compositor does not answer any more: {0}")]
    Wayland(#[from] softbuffer::SoftBufferError),
}

/// A window's pixels.
pub(super) trait Canvas {
    /// Brings what is new in a picture to the screen.
    fn paint(&mut self, picture: &mut Picture) -> Result<Painted, Broken>;
}
