//! The words of virtio-gpu and vhost-user-gpu as Rust values, and EDID.
