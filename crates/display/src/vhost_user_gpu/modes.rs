//! What the VMM says of its heads: questions in order, answers kept.

use std::collections::VecDeque;

use device::{Head, Modes};
use protocol::edid::{Edid, Mode, Monitor};
use protocol::reply::DisplayOne;
use protocol::vhost_user_gpu::{FLAG_REPLY, Message, Reply, Request, SideError, protocol_feature};
use protocol::{MAX_SCANOUTS, ScanoutId};

/// A question to the VMM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Question {
    Features,
    Heads,
    Edid(ScanoutId),
}

/// The VMM's heads, and what it was asked about them.
#[derive(Debug, Default)]
pub(super) struct VmmModes {
    to_ask: VecDeque<Question>,
    asked: VecDeque<Question>,
    /// Features to be set.
    to_set: Option<u64>,
    has_edid: bool,
    /// The heads may have changed after the question for them was asked.
    again: bool,
    heads: Option<Vec<Head>>,
    edids: Vec<Edid>,
}

impl VmmModes {
    /// A new side socket: everything is asked.
    pub(super) fn begin(&mut self) {
        let known = std::mem::take(self);
        self.to_ask = VecDeque::from([Question::Features, Question::Heads]);
        (self.heads, self.edids) = (known.heads, known.edids);
    }

    /// The side socket is gone: what is known stays, what was asked will not be answered. Whether something was.
    pub(super) fn end(&mut self) -> bool {
        let was_pending = self.is_pending();
        self.to_ask.clear();
        self.asked.clear();
        (self.to_set, self.again) = (None, false);
        was_pending
    }

    /// What is known may be old.
    pub(super) fn refresh(&mut self) {
        if self.asked.contains(&Question::Heads) {
            self.again = true;
        } else if !self.to_ask.contains(&Question::Heads) {
            // Behind EDIDs that may never come: the answer to this one tells.
            self.to_ask.retain(|question| !matches!(question, Question::Edid(_)));
            self.to_ask.push_back(Question::Heads);
        }
    }

    /// Whether answers are to come.
    pub(super) fn is_pending(&self) -> bool {
        !self.to_ask.is_empty() || !self.asked.is_empty() || self.again
    }

    /// What is to be said next.
    pub(super) fn next_message(&mut self) -> Option<Message<'static>> {
        if let Some(features) = self.to_set.take() {
            return Some(Message::SetProtocolFeatures(features));
        }
        let question = self.to_ask.pop_front()?;
        self.asked.push_back(question);
        Some(match question {
            Question::Features => Message::GetProtocolFeatures,
            Question::Heads => Message::GetDisplayInfo,
            Question::Edid(scanout) => Message::GetEdid(scanout),
        })
    }

    /// Takes an answer. An error: nobody asked that, and whoever waits goes on waiting.
    pub(super) fn take(&mut self, reply: Reply) -> Result<(), SideError> {
        let mut question = self.asked.pop_front();
        // QEMU never answers for a head that it does not have.
        while let (Some(Question::Edid(_)), Reply::ProtocolFeatures(_) | Reply::DisplayInfo(_)) = (question, &reply) {
            question = self.asked.pop_front();
        }
        match (question, reply) {
            (Some(Question::Features), Reply::ProtocolFeatures(features)) => {
                self.has_edid = features & protocol_feature::EDID != 0;
                self.to_set = Some(features & protocol_feature::EDID);
            }
            (Some(Question::Heads), Reply::DisplayInfo(heads)) => self.take_heads(&heads),
            (Some(Question::Edid(scanout)), Reply::Edid(field)) => {
                if let (Ok(edid), Some(place)) = (Edid::parse_padded(&field), self.edids.get_mut(scanout.0 as usize)) {
                    *place = edid;
                }
            }
            (question, reply) => {
                self.asked.extend(question);
                return Err(SideError::Unknown(request(&reply), FLAG_REPLY));
            }
        }
        Ok(())
    }

    /// Who says what the heads are.
    pub(super) fn modes(&self) -> Modes {
        match &self.heads {
            _ if self.is_pending() => Modes::Pending,
            Some(heads) => Modes::Display(heads.clone()),
            None => Modes::Device,
        }
    }

    /// A head's EDID: the VMM's, or one of ours that says what the VMM said.
    pub(super) fn edid(&self, scanout: ScanoutId) -> Option<&[u8]> {
        self.edids.get(scanout.0 as usize).map(Edid::as_bytes)
    }

    fn take_heads(&mut self, heads: &[DisplayOne]) {
        self.heads = Some(heads.iter().map(|head| Head { enabled: head.enabled, rect: head.rect }).collect());
        let heads = (0..MAX_SCANOUTS).map(ScanoutId).zip(heads);
        self.edids = heads.clone().map(|(scanout, head)| own_edid(scanout, head)).collect();
        if std::mem::take(&mut self.again) {
            self.to_ask.push_back(Question::Heads);
        } else if self.has_edid {
            // All of these heads are there, so that the answers come, in this order.
            self.to_ask.extend(heads.filter(|(_, head)| head.enabled).map(|(scanout, _)| Question::Edid(scanout)));
        }
    }
}

/// For a VMM without EDIDs, and for heads that are off.
fn own_edid(scanout: ScanoutId, head: &DisplayOne) -> Edid {
    let (width, height) = match (head.rect.width, head.rect.height) {
        (0, _) | (_, 0) => (1024, 768),
        size => size,
    };
    Monitor::head(scanout.0, Mode { width, height, refresh: 60 }).edid()
}

fn request(reply: &Reply) -> Request {
    match reply {
        Reply::ProtocolFeatures(_) => Request::GET_PROTOCOL_FEATURES,
        Reply::DisplayInfo(_) => Request::GET_DISPLAY_INFO,
        Reply::Edid(_) => Request::GET_EDID,
        Reply::DmabufUpdated => Request::DMABUF_UPDATE,
    }
}
