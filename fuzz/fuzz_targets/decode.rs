//! A guest's bytes become a command, and the reply to it bytes.
#![no_main]

use fuzz::{script, seeds};
use libfuzzer_sys::fuzz_target;
use protocol::{Command, Reply, ReplyError};

fuzz_target!(init: seeds::plant(seeds::decode()), |data: &[u8]| {
    let (header, command) = Command::decode(data);
    let entries = match &command {
        Ok(Command::ResourceAttachBacking { entries, .. }) => entries.len(),
        Ok(Command::ResourceCreateBlob(blob)) => blob.entries.len(),
        _ => 0,
    };
    assert!(entries * 16 <= data.len(), "more entries than were sent");
    let mut reply = Vec::new();
    let error = command.map_or_else(ReplyError::from, |_| ReplyError::Unspec);
    Reply::Error(error).encode(&header, &mut reply);
    script::describe(&reply);
});
