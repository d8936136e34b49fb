//! What commands are called, for counters and people: one place for each of section 5.7.6.7.

use crate::Header;
use crate::wire::kind;

/// How many commands there are, and one more for what is none.
pub const COMMANDS: usize = 27;

/// Their names, by [`Header::place`]: the specification's, without prefix and in small letters.
pub const NAMES: [&str; COMMANDS] = [
    "get_display_info",
    "resource_create_2d",
    "resource_unref",
    "set_scanout",
    "resource_flush",
    "transfer_to_host_2d",
    "resource_attach_backing",
    "resource_detach_backing",
    "get_capset_info",
    "get_capset",
    "get_edid",
    "resource_assign_uuid",
    "resource_create_blob",
    "set_scanout_blob",
    "ctx_create",
    "ctx_destroy",
    "ctx_attach_resource",
    "ctx_detach_resource",
    "resource_create_3d",
    "transfer_to_host_3d",
    "transfer_from_host_3d",
    "submit_3d",
    "resource_map_blob",
    "resource_unmap_blob",
    "update_cursor",
    "move_cursor",
    "unknown",
];

/// Where the commands of each kind of driver begin and end, and the place of the first.
const RANGES: [(u32, u32, usize); 3] = [
    (kind::GET_DISPLAY_INFO, kind::SET_SCANOUT_BLOB, 0),
    (kind::CTX_CREATE, kind::RESOURCE_UNMAP_BLOB, 14),
    (kind::UPDATE_CURSOR, kind::MOVE_CURSOR, 24),
];

impl Header {
    /// Its command's place among [`NAMES`], the last where it is none.
    #[inline]
    pub fn place(&self) -> usize {
        let range = RANGES.iter().find(|(first, last, _)| (*first..=*last).contains(&self.kind));
        range.map_or(COMMANDS - 1, |(first, _, place)| place + (self.kind - first) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_command_has_its_name_and_what_is_none_has_one_as_well() {
        let name = |kind| NAMES[Header { kind, ..Header::default() }.place()];
        for (kind, expected) in [
            (kind::GET_DISPLAY_INFO, "get_display_info"),
            (kind::RESOURCE_FLUSH, "resource_flush"),
            (kind::GET_EDID, "get_edid"),
            (kind::SET_SCANOUT_BLOB, "set_scanout_blob"),
            (kind::CTX_CREATE, "ctx_create"),
            (kind::SUBMIT_3D, "submit_3d"),
            (kind::RESOURCE_UNMAP_BLOB, "resource_unmap_blob"),
            (kind::UPDATE_CURSOR, "update_cursor"),
            (kind::MOVE_CURSOR, "move_cursor"),
            (0, "unknown"),
            (kind::SET_SCANOUT_BLOB + 1, "unknown"),
            (kind::CTX_CREATE - 1, "unknown"),
            (kind::MOVE_CURSOR + 1, "unknown"),
            (u32::MAX, "unknown"),
        ] {
            assert_eq!(name(kind), expected, "{kind:#x}");
        }
    }
}
