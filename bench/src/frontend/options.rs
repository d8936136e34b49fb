//! What a front-end is and what it negotiates.

use std::time::Duration;

use super::message::protocol_feature as protocol;
use super::ring::Wait;
use super::vmm_display::Settings;

/// Bits of the virtio features.
#[allow(missing_docs)]
pub mod feature {
    pub const VIRGL: u64 = 1 << 0;
    pub const EDID: u64 = 1 << 1;
    pub const RESOURCE_UUID: u64 = 1 << 2;
    pub const RESOURCE_BLOB: u64 = 1 << 3;
    pub const CONTEXT_INIT: u64 = 1 << 4;
    pub const INDIRECT_DESC: u64 = 1 << 28;
    pub const EVENT_IDX: u64 = 1 << 29;
    pub const PROTOCOL_FEATURES: u64 = 1 << 30;
    pub const VERSION_1: u64 = 1 << 32;
    pub const RING_RESET: u64 = 1 << 40;
}

/// Which of QEMU's two front-ends is played.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// vhost-user-gpu-pci and vhost-user-vga: the VMM owns the display and gives the device a side socket.
    Gpu,
    /// The generic vhost-user device with virtio-id 16: no side socket, blobs, config changes.
    Generic,
}

/// All that can be chosen before connecting.
#[derive(Debug, Clone)]
pub struct Options {
    /// The front-end that is played.
    pub kind: Kind,
    /// Virtio features that are acknowledged if the device offers them.
    pub features: u64,
    /// Virtio features that are acknowledged even if the device does not offer them, as QEMU does.
    pub forced_features: u64,
    /// Protocol features that are acknowledged if the device offers them.
    pub protocol_features: u64,
    /// Descriptors of each ring.
    pub queue_size: u16,
    /// Number of rings that are made and started.
    pub queues: u16,
    /// The guest's memory: guest address and size of each region.
    pub memory: Vec<(u64, u64)>,
    /// How [`super::Queue::wait`] waits.
    pub wait: Wait,
    /// The longest wait for an answer on the socket.
    pub patience: Duration,
    /// Commands go through indirect descriptors when the feature was negotiated.
    pub indirect: bool,
    /// The VMM's display, for [`Kind::Gpu`].
    pub display: Settings,
}

impl Default for Options {
    fn default() -> Self {
        Self::new(Kind::Gpu)
    }
}

impl Options {
    /// What QEMU 11.1 does with a Linux guest.
    pub fn new(kind: Kind) -> Self {
        let both = feature::EDID
            | feature::RESOURCE_UUID
            | feature::INDIRECT_DESC
            | feature::EVENT_IDX
            | feature::VERSION_1
            | feature::RING_RESET;
        let (features, forced_features) = match kind {
            Kind::Gpu => (both, feature::EVENT_IDX | feature::RING_RESET),
            Kind::Generic => (both | feature::RESOURCE_BLOB | feature::CONTEXT_INIT, 0),
        };
        let protocol_features = protocol::MQ
            | protocol::REPLY_ACK
            | protocol::BACKEND_REQ
            | protocol::CONFIG
            | protocol::BACKEND_SEND_FD
            | protocol::RESET_DEVICE
            | protocol::CONFIGURE_MEM_SLOTS
            | protocol::SHMEM;
        Self {
            kind,
            features,
            forced_features,
            protocol_features,
            queue_size: 256,
            queues: 2,
            memory: vec![(0, 256 << 20)],
            wait: Wait::Timeout(Duration::from_secs(60)),
            patience: Duration::from_secs(60),
            indirect: false,
            display: Settings::default(),
        }
    }
}
