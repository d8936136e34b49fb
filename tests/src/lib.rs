//! Real guests under QEMU, and the API that makes a guest test five lines.
