//! QEMU's vhost-user-gpu side protocol.
