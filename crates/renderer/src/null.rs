//! Renderers without pixels.

mod three_d;

use device::{Pages, Pixels, Progress, Renderer, ResourceDesc, Ticket, Transfer};
use protocol::{MemEntry, ReplyError, ResourceId};

pub use three_d::Null3d;

/// Says yes to everything and has no pixels.
#[derive(Clone, Copy, Debug, Default)]
pub struct Null;

impl Renderer for Null {
    fn create(&mut self, _ticket: Ticket, _resource: ResourceId, _desc: ResourceDesc) -> Progress {
        Progress::Done(Ok(()))
    }

    fn destroy(&mut self, _resource: ResourceId) {}

    fn attach(&mut self, _ticket: Ticket, _resource: ResourceId, _entries: &[MemEntry]) -> Progress {
        Progress::Done(Ok(()))
    }

    fn detach(&mut self, _ticket: Ticket, _resource: ResourceId) -> Progress {
        Progress::Done(Ok(()))
    }

    fn transfer_to_host(
        &mut self,
        _ticket: Ticket,
        _resource: ResourceId,
        _transfer: Transfer,
        _pages: &Pages<'_>,
    ) -> Progress {
        Progress::Done(Ok(()))
    }

    fn pixels(&mut self, _resource: ResourceId, _shared: bool) -> Option<Pixels<'_>> {
        None
    }

    fn restore(&mut self, _resource: ResourceId, _pixels: &[u8]) -> Result<(), ReplyError> {
        Ok(())
    }

    fn reset(&mut self) {}
}
