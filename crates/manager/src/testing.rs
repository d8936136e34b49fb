//! Values for tests.

use uuid::Uuid;

use crate::gpu::{Gpu, GpuId, Timed};
use crate::profile::Type;
use crate::profile::defaults::{FULL_HD, flat};
use crate::value::Capset;

pub(crate) fn uuid(number: u128) -> Uuid {
    Uuid::from_u128(0x4b1c_2a60_7a35_4c5c_9c0a_0000_0000_0000 | number)
}

/// A GPU that can do everything.
pub(crate) fn gpu(id: &str, memory: u64) -> Gpu {
    let software = id == "software";
    Gpu {
        id: GpuId(id.to_owned()),
        name: id.to_owned(),
        memory,
        node: (!software).then(|| "/dev/dri/renderD128".into()),
        capsets: vec![Capset::Virgl, Capset::Virgl2, Capset::Venus],
        software,
        timed: if software { Timed::Processor } else { Timed::Fdinfo },
    }
}

/// A type for 2D.
pub(crate) fn kind(name: &str, gpu: &str, memory: u64) -> Type {
    Type {
        name: name.to_owned(),
        heads: vec!["1280x800".parse().unwrap()],
        ..flat(&self::gpu(gpu, memory), memory, FULL_HD)
    }
}
