//! What a type may promise, and what of it is advice.

use serde::Serialize;

use crate::gpu::{Gpu, Timed};
use crate::profile::{Promise, Type};
use crate::value::{Bytes, Capset};

/// Something about a type that is not held whatever happens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Advice {
    /// About what.
    pub what: Matter,
    /// For people.
    pub why: String,
}

/// What a type is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Matter {
    /// Its part of the memory.
    Memory,
    /// Its part of the time.
    Share,
}

/// Why nothing holds the share that this type promises; `None` when something does.
pub(super) fn unkept(kind: &Type, gpu: &Gpu) -> Option<String> {
    if kind.share == Promise::Advisory {
        return None;
    }
    let promised = match kind.share {
        Promise::Strict => "strict slices",
        _ => "a fixed share",
    };
    if !kind.draws_3d() {
        return Some(format!(
            "nothing holds 2D to {promised}: it is drawn by the device itself, which must answer; leave share out"
        ));
    }
    if !kind.isolate {
        return Some(format!("nothing holds what draws in the device itself to {promised}: leave isolate out"));
    }
    if gpu.timed == Timed::Nothing {
        return Some(format!("nothing measures the time that is used on {}, so {promised} cannot be held", gpu.id));
    }
    let loose = |capset: &&Capset| {
        let grips = gpu.grips(**capset);
        match kind.share {
            Promise::Strict => !grips.stops_within,
            _ => !(grips.gate || grips.freeze || grips.kernel),
        }
    };
    let capset = kind.capsets.iter().find(loose)?;
    Some(match kind.share {
        Promise::Strict => format!(
            "nothing stops {capset} on {} in the middle of a batch, so strict slices cannot be held: share = \"fixed-share\" \
             charges for what overruns",
            gpu.id
        ),
        _ => format!("nothing holds {capset} on {} to a fixed share", gpu.id),
    })
}

/// Why there can be no vGPU of this type on a host with these GPUs, whoever has how much.
pub(super) fn barred(kind: &Type, gpus: &[Gpu]) -> Option<String> {
    let Some(gpu) = gpus.iter().find(|gpu| gpu.id == kind.gpu) else {
        return Some(format!("This host has no GPU {}", kind.gpu));
    };
    if let Some(capset) = kind.capsets.iter().find(|capset| !gpu.capsets.contains(capset)) {
        return Some(format!(
            "{capset} does not work on {} here: beamsplit device --print-capabilities --verbose says why",
            gpu.id
        ));
    }
    if gpu.memory == 0 {
        return Some(format!(
            "Nobody knows how much memory {0} has: say it in types.toml, [gpu.\"{0}\"] memory = \"8G\"",
            gpu.id
        ));
    }
    if kind.memory > gpu.memory && !kind.overcommit {
        let (wanted, there) = (Bytes(kind.memory), Bytes(gpu.memory));
        return Some(format!("It has {wanted}, and {} has {there} in all", gpu.id));
    }
    unkept(kind, gpu).map(|why| format!("It promises too much: {why}"))
}

/// What of a type is not held whatever happens.
pub(super) fn advisory(kind: &Type, gpu: Option<&Gpu>) -> Vec<Advice> {
    let mut advice = Vec::new();
    if kind.overcommit {
        let why = "others may have been given the same memory (overcommit)";
        advice.push(Advice { what: Matter::Memory, why: why.to_owned() });
    } else if kind.draws_3d() && !kind.isolate {
        let why = "what a driver allocates in the device itself is not counted (isolate = false)";
        advice.push(Advice { what: Matter::Memory, why: why.to_owned() });
    } else if kind.draws_3d() {
        let why = format!(
            "what the guest makes by commands is counted; what a driver allocates for it is bounded by the limit of each of \
             its processes ({}, renderer-memory), not by this",
            Bytes(kind.renderer_memory())
        );
        advice.push(Advice { what: Matter::Memory, why });
    }
    if kind.draws_3d() && kind.share == Promise::Advisory {
        let why = match gpu {
            Some(gpu) if gpu.timed == Timed::Nothing => {
                format!("nothing measures the time that is used on {}", gpu.id)
            }
            _ if !kind.isolate => "nothing holds what draws in the device itself".to_owned(),
            _ => "by weight of what the others leave; nothing is kept while it idles".to_owned(),
        };
        advice.push(Advice { what: Matter::Share, why });
    }
    advice
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Renderer;
    use crate::testing::{gpu, kind};

    fn drawing(gpu: &str, share: Promise, capsets: &[Capset]) -> Type {
        Type { share, capsets: capsets.to_vec(), renderer: Renderer::Virgl, ..kind("one", gpu, 1 << 30) }
    }

    #[test]
    fn strict_slices_are_kept_where_a_process_that_stops_has_stopped_the_gpu() {
        let strict = |gpu| drawing(gpu, Promise::Strict, &[Capset::Virgl2, Capset::Venus]);
        assert_eq!(unkept(&strict("software"), &gpu("software", 1 << 30)), None);
        let why = unkept(&strict("pci-0"), &gpu("pci-0", 1 << 30)).unwrap();
        assert!(why.contains("virgl2") && why.contains("fixed-share"), "{why}");
    }

    #[test]
    fn fixed_shares_are_kept_by_gate_or_freeze_where_time_is_measured() {
        let fixed = drawing("pci-0", Promise::FixedShare, &[Capset::Venus]);
        assert_eq!(unkept(&fixed, &gpu("pci-0", 1 << 30)), None);
        let blind = Gpu { timed: Timed::Nothing, ..gpu("pci-0", 1 << 30) };
        assert!(unkept(&fixed, &blind).unwrap().contains("measures"));
    }

    #[test]
    fn no_share_is_promised_of_2d_nor_of_what_draws_in_the_device() {
        let flat = drawing("software", Promise::FixedShare, &[]);
        assert!(unkept(&flat, &gpu("software", 1 << 30)).unwrap().contains("2D"));
        let inside = Type { isolate: false, ..drawing("software", Promise::Strict, &[Capset::Virgl2]) };
        assert!(unkept(&inside, &gpu("software", 1 << 30)).unwrap().contains("isolate"));
    }

    #[test]
    fn what_this_host_cannot_offer_is_barred_with_the_reason() {
        let gpus = [gpu("software", 1 << 30), Gpu { memory: 0, ..gpu("pci-0", 0) }];
        let cases = [
            (kind("one", "pci-9", 1), "pci-9"),
            (kind("one", "pci-0", 1), "types.toml"),
            (kind("one", "software", 2 << 30), "2G"),
            (drawing("software", Promise::Advisory, &[Capset::Drm]), "drm"),
        ];
        for (kind, named) in cases {
            let why = barred(&kind, &gpus).unwrap();
            assert!(why.contains(named), "{why}");
        }
        assert_eq!(barred(&kind("one", "software", 1 << 30), &gpus), None);
    }

    #[test]
    fn what_is_advice_is_said() {
        let matters = |kind: &Type| {
            advisory(kind, Some(&gpu("software", 1 << 30))).iter().map(|advice| advice.what).collect::<Vec<_>>()
        };
        assert_eq!(matters(&kind("one", "software", 1)), []);
        let drawn = drawing("software", Promise::Advisory, &[Capset::Virgl2]);
        assert_eq!(matters(&drawn), [Matter::Memory, Matter::Share]);
        assert_eq!(matters(&Type { share: Promise::Strict, ..drawn }), [Matter::Memory]);
        assert_eq!(matters(&Type { overcommit: true, ..kind("one", "software", 1) }), [Matter::Memory]);
    }
}
