//! One batch of messages into a ring whose chains are room for them.

use device::{Memory, VirtioDevice, guest_log};

use super::guarded;
use crate::chain::{Chain, scatter};
use crate::ring::{Popped, RingError, View};

/// How often the ring is looked at again in one batch, when the driver makes room while the device waits for it.
const ROUNDS: usize = 4;

/// How a batch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Supplied {
    /// All was said, or the driver kicks when there is more room.
    Settled,
    /// There is more room already.
    More,
    /// The device panicked.
    Panicked,
}

/// Has the device fill chains of `ring`. Only those that it fills are popped, so a ring can stop at any time. The driver is
/// not asked to kick unless the device waits for room: one that refills as it reads costs no wake-up.
pub(super) fn supply(
    device: &mut dyn VirtioDevice,
    memory: &Memory,
    queue: u16,
    ring: &mut View<'_>,
    chain: &mut Chain,
) -> Result<Supplied, RingError> {
    ring.silence()?;
    let mut room = ring.pending()?;
    for _ in 0..ROUNDS {
        let (free, mut failure) = (usize::from(room), None);
        let mut put = |message: &[u8]| match room.checked_sub(1) {
            Some(less) => {
                room = less;
                if let Err(why) = put_one(memory, queue, ring, chain, message) {
                    failure = Some(why);
                    room = 0;
                }
            }
            None => guest_log!(error, "A message for queue {queue} is lost: there was no room for it"),
        };
        let Some(waits) = guarded(device, |device| device.supply(queue, free, &mut put)) else {
            return Ok(Supplied::Panicked);
        };
        if let Some(why) = failure {
            return Err(why);
        }
        if !waits {
            return Ok(Supplied::Settled);
        }
        let more = ring.listen_past(room)?;
        if more == room {
            return Ok(Supplied::Settled);
        }
        room = more;
        ring.silence()?;
    }
    Ok(Supplied::More)
}

/// One message, one chain; what does not fit is cut off. A chain that cannot be followed takes its message with it.
fn put_one(
    memory: &Memory,
    queue: u16,
    ring: &mut View<'_>,
    chain: &mut Chain,
    message: &[u8],
) -> Result<(), RingError> {
    match ring.pop(chain)? {
        Popped::Chain { head } => ring.push(head, scatter(memory, chain.writable(), message)),
        Popped::Bad { head, why } => {
            guest_log!(warn, "Queue {queue}: {why}; the chain is given back");
            ring.push(head, 0)
        }
    }
}
