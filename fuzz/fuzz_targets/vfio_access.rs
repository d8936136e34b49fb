//! A guest that reads and writes the registers of a PCI function at will.
#![no_main]

use fuzz::{cards, seeds};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: seeds::plant(seeds::vfio_access()), |data: &[u8]| cards::touch(data));
