//! What both sides say of themselves in their VERSION, as JSON.

use std::ffi::CStr;

use serde::Deserialize;

use super::wire::{MAX_CAPABILITIES, MAX_DATA};

/// What we say. Everything else is as the protocol has it when nothing is said; `max_dma_maps` above all, because QEMU
/// compares it with what its own memory slots could become.
pub const OURS: &CStr = c"{\"capabilities\":{\"max_msg_fds\":16,\"max_data_xfer_size\":1048576}}";

const _: () = assert!(MAX_DATA == 1_048_576 && super::wire::MAX_FDS == 16);

/// What a front-end said of itself, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Data that it takes in one message.
    pub max_data: usize,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Version {
    capabilities: Capabilities,
}

#[derive(Deserialize)]
#[serde(default)]
struct Capabilities {
    max_data_xfer_size: usize,
}

impl Default for Capabilities {
    fn default() -> Self {
        Self { max_data_xfer_size: MAX_DATA }
    }
}

/// Reads a front-end's words, of which there may be none. They end with a NUL.
pub fn parse(bytes: &[u8]) -> Option<Peer> {
    if bytes.is_empty() {
        return Some(Peer { max_data: MAX_DATA });
    }
    if bytes.len() > MAX_CAPABILITIES {
        return None;
    }
    let json = CStr::from_bytes_with_nul(bytes).ok()?;
    let version: Version = serde_json::from_slice(json.to_bytes()).ok()?;
    Some(Peer { max_data: version.capabilities.max_data_xfer_size })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_known_front_ends_are_understood() {
        let qemu = br#"{"capabilities": {"pgsizes": 4096, "max_msg_fds": 16, "max_dma_maps": 65535, "max_data_xfer_size": 1048576, "migration": {"max_bitmap_size": 268435456, "pgsize": 4096}, "write_multiple": true}}"#;
        assert_eq!(parse(&[&qemu[..], b"\0"].concat()), Some(Peer { max_data: 1 << 20 }));
        assert_eq!(parse(b""), Some(Peer { max_data: 1 << 20 }));
        assert_eq!(parse(b"{}\0"), Some(Peer { max_data: 1 << 20 }));
        assert_eq!(parse(b"{\"capabilities\":{\"max_data_xfer_size\":4096}}\0"), Some(Peer { max_data: 4096 }));
        // Its answer must not be longer than what it sent.
        assert!(OURS.count_bytes() < qemu.len());
    }

    #[test]
    fn other_words_are_not() {
        let deep = ["[".repeat(4000), "\0".into()].concat();
        let long = [&[b' '; MAX_CAPABILITIES][..], b"{}\0"].concat();
        for bytes in
            [&b"{}"[..], b"\0", b"{}\0{}\0", b"[\0", b"\xff\0", b"{\"capabilities\":3}\0", deep.as_bytes(), &long]
        {
            assert_eq!(parse(bytes), None, "{}", String::from_utf8_lossy(&bytes[..bytes.len().min(40)]));
        }
    }

    #[test]
    fn ours_is_json() {
        assert_eq!(parse(OURS.to_bytes_with_nul()), Some(Peer { max_data: MAX_DATA }));
    }
}
