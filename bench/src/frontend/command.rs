//! Commands of virtio-gpu as bytes (virtio 1.3, section 5.7.6.7), right or wrong.

#[allow(missing_docs)]
mod words {
    pub const GET_DISPLAY_INFO: u32 = 0x100;
    pub const RESOURCE_CREATE_2D: u32 = 0x101;
    pub const RESOURCE_UNREF: u32 = 0x102;
    pub const SET_SCANOUT: u32 = 0x103;
    pub const RESOURCE_FLUSH: u32 = 0x104;
    pub const TRANSFER_TO_HOST_2D: u32 = 0x105;
    pub const RESOURCE_ATTACH_BACKING: u32 = 0x106;
    pub const RESOURCE_DETACH_BACKING: u32 = 0x107;
    pub const GET_CAPSET_INFO: u32 = 0x108;
    pub const GET_CAPSET: u32 = 0x109;
    pub const GET_EDID: u32 = 0x10a;
    pub const RESOURCE_ASSIGN_UUID: u32 = 0x10b;
    pub const RESOURCE_CREATE_BLOB: u32 = 0x10c;
    pub const SET_SCANOUT_BLOB: u32 = 0x10d;
    pub const UPDATE_CURSOR: u32 = 0x300;
    pub const MOVE_CURSOR: u32 = 0x301;

    pub const RESP_OK_NODATA: u32 = 0x1100;
    pub const RESP_OK_DISPLAY_INFO: u32 = 0x1101;
    pub const RESP_OK_CAPSET_INFO: u32 = 0x1102;
    pub const RESP_OK_CAPSET: u32 = 0x1103;
    pub const RESP_OK_EDID: u32 = 0x1104;
    pub const RESP_OK_RESOURCE_UUID: u32 = 0x1105;
    pub const RESP_OK_MAP_INFO: u32 = 0x1106;
    pub const RESP_ERR_UNSPEC: u32 = 0x1200;
    pub const RESP_ERR_OUT_OF_MEMORY: u32 = 0x1201;
    pub const RESP_ERR_INVALID_SCANOUT_ID: u32 = 0x1202;
    pub const RESP_ERR_INVALID_RESOURCE_ID: u32 = 0x1203;
    pub const RESP_ERR_INVALID_CONTEXT_ID: u32 = 0x1204;
    pub const RESP_ERR_INVALID_PARAMETER: u32 = 0x1205;

    pub const FLAG_FENCE: u32 = 1 << 0;
    pub const FLAG_INFO_RING_IDX: u32 = 1 << 1;

    pub const FORMAT_B8G8R8A8: u32 = 1;
    pub const FORMAT_B8G8R8X8: u32 = 2;
}
pub use words::*;

/// Bytes of every command's header.
pub const HEADER: usize = 24;

/// x, y, width, height.
pub type Rectangle = [u32; 4];

/// A command that grows word by word.
#[derive(Debug, Clone)]
pub struct Command(Vec<u8>);

impl Command {
    /// A command that is only a header yet.
    pub fn new(kind: u32) -> Self {
        Self(Vec::with_capacity(64)).u32(kind).words(&[0; 5])
    }

    /// Asks for a fence.
    pub fn fence(mut self, id: u64) -> Self {
        self.0[4] |= FLAG_FENCE as u8;
        self.0[8..16].copy_from_slice(&id.to_le_bytes());
        self
    }

    /// Names a context.
    pub fn context(mut self, id: u32) -> Self {
        self.0[16..20].copy_from_slice(&id.to_le_bytes());
        self
    }

    /// Names a ring of the context.
    pub fn ring(mut self, index: u8) -> Self {
        self.0[4] |= FLAG_INFO_RING_IDX as u8;
        self.0[20] = index;
        self
    }

    /// Adds a word.
    pub fn u32(self, word: u32) -> Self {
        self.words(&[word])
    }

    /// Adds words.
    pub fn words(mut self, words: &[u32]) -> Self {
        for word in words {
            self.0.extend(word.to_le_bytes());
        }
        self
    }

    /// Adds a double word.
    pub fn u64(mut self, word: u64) -> Self {
        self.0.extend(word.to_le_bytes());
        self
    }

    /// Adds bytes.
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    /// The bytes as the guest writes them.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// GET_DISPLAY_INFO.
pub fn get_display_info() -> Command {
    Command::new(GET_DISPLAY_INFO)
}

/// GET_EDID of a scanout.
pub fn get_edid(scanout: u32) -> Command {
    Command::new(GET_EDID).words(&[scanout, 0])
}

/// RESOURCE_CREATE_2D.
pub fn create_2d(resource: u32, format: u32, width: u32, height: u32) -> Command {
    Command::new(RESOURCE_CREATE_2D).words(&[resource, format, width, height])
}

/// RESOURCE_UNREF.
pub fn unref(resource: u32) -> Command {
    Command::new(RESOURCE_UNREF).words(&[resource, 0])
}

/// SET_SCANOUT; resource 0 turns the scanout off.
pub fn set_scanout(scanout: u32, resource: u32, rectangle: Rectangle) -> Command {
    Command::new(SET_SCANOUT).words(&rectangle).words(&[scanout, resource])
}

/// RESOURCE_FLUSH.
pub fn flush(resource: u32, rectangle: Rectangle) -> Command {
    Command::new(RESOURCE_FLUSH).words(&rectangle).words(&[resource, 0])
}

/// TRANSFER_TO_HOST_2D from `offset` of the backing.
pub fn transfer_to_host_2d(resource: u32, rectangle: Rectangle, offset: u64) -> Command {
    Command::new(TRANSFER_TO_HOST_2D).words(&rectangle).u64(offset).words(&[resource, 0])
}

/// RESOURCE_ATTACH_BACKING with (address, length) entries.
pub fn attach_backing(resource: u32, entries: &[(u64, u32)]) -> Command {
    let start = Command::new(RESOURCE_ATTACH_BACKING).words(&[resource, entries.len() as u32]);
    entries.iter().fold(start, |command, &(address, length)| command.u64(address).words(&[length, 0]))
}

/// RESOURCE_DETACH_BACKING.
pub fn detach_backing(resource: u32) -> Command {
    Command::new(RESOURCE_DETACH_BACKING).words(&[resource, 0])
}

/// UPDATE_CURSOR; resource 0 hides it.
pub fn update_cursor(scanout: u32, x: u32, y: u32, resource: u32, hot: (u32, u32)) -> Command {
    Command::new(UPDATE_CURSOR).words(&[scanout, x, y, 0, resource, hot.0, hot.1, 0])
}

/// MOVE_CURSOR.
pub fn move_cursor(scanout: u32, x: u32, y: u32) -> Command {
    Command::new(MOVE_CURSOR).words(&[scanout, x, y, 0, 0, 0, 0, 0])
}

/// An answer of the device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Bytes that the device says it wrote.
    pub used_length: u32,
    /// The whole writable part of the chain.
    pub bytes: Vec<u8>,
}

impl Reply {
    /// The type word; 0 when the device wrote none.
    pub fn kind(&self) -> u32 {
        self.word(0)
    }

    /// The header's flags.
    pub fn flags(&self) -> u32 {
        self.word(1)
    }

    /// The header's fence.
    pub fn fence(&self) -> u64 {
        u64::from(self.word(2)) | u64::from(self.word(3)) << 32
    }

    /// Any 32-bit word of the answer, counted from its start; 0 past its end.
    pub fn word(&self, index: usize) -> u32 {
        let bytes = self.bytes.get(index * 4..index * 4 + 4).and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0, u32::from_le_bytes)
    }

    /// Is it one of the RESP_OK words?
    pub fn is_ok(&self) -> bool {
        (RESP_OK_NODATA..RESP_ERR_UNSPEC).contains(&self.kind())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_each_command_stand_where_the_specification_has_them() {
        let size = |command: Command| command.as_bytes().len();
        assert_eq!(size(get_display_info()), 24);
        assert_eq!(size(create_2d(1, 2, 3, 4)), 40);
        assert_eq!(size(set_scanout(0, 1, [0; 4])), 48);
        assert_eq!(size(transfer_to_host_2d(1, [0; 4], 0)), 56);
        assert_eq!(size(attach_backing(1, &[(0x1000, 4096); 3])), 32 + 3 * 16);
        assert_eq!(size(move_cursor(0, 1, 2)), 56);
        let bytes = transfer_to_host_2d(7, [1, 2, 3, 4], 0x1_0000_0005);
        assert_eq!(bytes.as_bytes()[40..52], [5, 0, 0, 0, 1, 0, 0, 0, 7, 0, 0, 0]);
    }

    #[test]
    fn a_fence_sets_its_flag_and_its_number() {
        let command = unref(9).fence(0x1122_3344_5566_7788).context(5).ring(3);
        let bytes = command.as_bytes();
        assert_eq!(bytes[4..8], [3, 0, 0, 0]);
        assert_eq!(bytes[8..16], 0x1122_3344_5566_7788u64.to_le_bytes());
        assert_eq!((bytes[16], bytes[20]), (5, 3));
    }

    #[test]
    fn a_reply_that_is_too_short_reads_as_nothing() {
        let reply = Reply { used_length: 0, bytes: vec![0, 0x11] };
        assert_eq!(reply.kind(), 0);
        assert!(!reply.is_ok());
    }
}
