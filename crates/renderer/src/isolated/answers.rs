//! Answers of processes, and what follows from them before the device is told.

use std::sync::Arc;

use device::{HostMapping, Rendered, Ticket, guest_log};
use protocol::{ReplyError, ResourceId};

use super::host::{Aim, Answer, Offer};
use super::wire::Request;
use super::{Isolated, offered};

/// Blobs whose memory is held for a guest to map at one time: each takes a file descriptor.
pub const MAPPINGS: usize = 512;

impl Isolated {
    /// Tells the device, and does what follows from it here.
    pub(super) fn finish(&mut self, answer: Answer) {
        let Answer { ticket, aim, mut result } = answer;
        match (aim, &mut result) {
            (Aim::Open(context), Err(_)) if self.contexts.get(&context).is_some_and(|c| c.home.made == ticket) => {
                self.remove_context(context);
            }
            (Aim::Create(resource) | Aim::Blob(resource, _), Err(_)) if self.is_made_by(resource, ticket) => {
                self.remove_resource(resource);
            }
            (Aim::Blob(resource, size), Ok(offer)) => {
                if let Some(offer) = offer.take()
                    && self.is_made_by(resource, ticket)
                    && let Err(error) = self.take_offer(resource, size, offer)
                {
                    result = Err(error);
                    if let Some(process) = self.remove_resource(resource) {
                        process.tell(Request::Destroy { resource });
                    }
                }
            }
            (Aim::Read(resource, number), _) => {
                let image = self.resources.get_mut(&resource).and_then(|resource| resource.image.as_mut());
                if let Some(image) = image.filter(|image| image.number == number) {
                    image.answered(result.is_ok());
                }
            }
            _ => {}
        }
        self.finished.push(Rendered { ticket, result: result.map(|_| ()) });
    }

    fn is_made_by(&self, resource: ResourceId, ticket: Ticket) -> bool {
        self.resources.get(&resource).is_some_and(|resource| resource.home.made == ticket)
    }

    /// Memory that a process offers for a blob is looked at before anybody sees it.
    fn take_offer(&mut self, resource: ResourceId, size: u64, offer: Offer) -> Result<(), ReplyError> {
        let mapped = self.resources.values().filter(|resource| resource.mapping.is_some()).count();
        if mapped >= MAPPINGS {
            return Err(ReplyError::OutOfMemory);
        }
        let refused = match offered::take(offer.file, size) {
            Ok(file) if (1..=3).contains(&offer.caching) => {
                let len = size.next_multiple_of(offered::PAGE);
                let mapping = HostMapping { file: Arc::new(file), offset: 0, len, caching: offer.caching };
                if let Some(resource) = self.resources.get_mut(&resource) {
                    resource.mapping = Some(mapping);
                }
                return Ok(());
            }
            Ok(_) => format!("Nobody knows how to cache it: {}", offer.caching),
            Err(refusal) => refusal.to_string(),
        };
        self.options.stats.renderer_lies.add(1);
        let guest = &self.options.name;
        guest_log!(warn, "Guest {guest}: memory of blob {} is not shown to the guest: {refused}", resource.0);
        Err(ReplyError::Unspec)
    }
}
