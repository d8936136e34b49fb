//! Which type is meant by "one with at least a GiB".

use crate::gpu::GpuId;
use crate::machine::{Machine, Refusal};
use crate::profile::{Offer, Type};
use crate::value::Bytes;

/// What somebody wants who names no type.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wish {
    /// At least so many bytes.
    pub least: Option<u64>,
    /// At most so many.
    pub most: Option<u64>,
    /// Of this GPU.
    pub gpu: Option<GpuId>,
    /// With 3D, or without.
    pub three_d: Option<bool>,
}

impl Wish {
    /// Whether this type would do.
    pub fn takes(&self, kind: &Type) -> bool {
        self.least.is_none_or(|least| kind.memory >= least)
            && self.most.is_none_or(|most| kind.memory <= most)
            && self.gpu.as_ref().is_none_or(|gpu| kind.gpu == *gpu)
            && self.three_d.is_none_or(|three_d| kind.draws_3d() == three_d)
    }
}

/// The type that fits best: the smallest that will do, of the GPU that has the least left, so that large parts stay whole elsewhere.
pub fn choose(machine: &Machine, wish: &Wish) -> Result<Type, Refusal> {
    let free = |kind: &Type| machine.partition().usage(&kind.gpu).map_or(0, |usage| usage.free());
    let mut offers: Vec<Offer> = machine.offers().filter(|offer| wish.takes(&offer.kind)).collect();
    offers.sort_by(|one, other| {
        let key = |offer: &Offer| (offer.kind.memory, free(&offer.kind));
        key(one).cmp(&key(other)).then_with(|| one.kind.name.cmp(&other.kind.name))
    });
    if let Some(offer) = offers.iter().find(|offer| offer.available > 0) {
        return Ok(offer.kind.clone());
    }
    // Of those that could be had, the one that is told about is the smallest.
    let Some(offer) = offers.iter().find(|offer| offer.barred.is_none()).or(offers.first()) else {
        return Err(Refusal::Invalid(nothing(machine, wish)));
    };
    match &offer.barred {
        Some(why) => Err(Refusal::Conflict(format!("Type '{}': {why}", offer.kind.name))),
        // Who has what of it is for the partition to say.
        None => match machine.partition().check(&offer.kind) {
            Ok(()) => Ok(offer.kind.clone()),
            Err(refusal) => Err(machine.with_names(refusal)),
        },
    }
}

fn nothing(machine: &Machine, wish: &Wish) -> String {
    let mut words = Vec::new();
    words.extend(wish.least.map(|least| format!("at least {}", Bytes(least))));
    words.extend(wish.most.map(|most| format!("at most {}", Bytes(most))));
    words.extend(wish.gpu.as_ref().map(|gpu| format!("of {gpu}")));
    words.extend(wish.three_d.map(|three_d| if three_d { "with 3D" } else { "without 3D" }.to_owned()));
    let there: Vec<String> =
        machine.types().iter().map(|kind| format!("{} ({})", kind.name, Bytes(kind.memory))).collect();
    let there = if there.is_empty() { "none".to_owned() } else { there.join(", ") };
    format!("No type is {}: there are {there}", words.join(" and "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::Gpu;
    use crate::machine::Event;
    use crate::profile::Catalogue;
    use crate::rehearsal::settle;
    use crate::testing::{gpu, uuid};
    use crate::vgpu::Definition;

    fn machine(gpus: &[Gpu]) -> Machine {
        let mut machine = Machine::new(Catalogue::defaults(gpus));
        settle(&mut machine, Event::Begin { autostart: false }).unwrap();
        machine
    }

    fn chosen(machine: &Machine, least: u64, most: u64) -> Result<String, String> {
        let wish = Wish { least: Some(least << 20), most: Some(most << 20), ..Wish::default() };
        choose(machine, &wish).map(|kind| kind.name).map_err(|refusal| refusal.to_string())
    }

    #[test]
    fn the_smallest_that_will_do_is_taken_and_the_next_when_there_is_none() {
        let mut machine = machine(&[gpu("software", 3 << 30)]);
        assert_eq!(chosen(&machine, 400, 4096).unwrap(), "render-512m");
        assert_eq!(chosen(&machine, 513, 4096).unwrap(), "render-1g");
        for number in 1..=2 {
            let definition = Definition::new(uuid(number), "render-1g");
            settle(&mut machine, Event::Create { definition, start: true }).unwrap();
        }
        let refusal = chosen(&machine, 1025, 4096).unwrap_err();
        assert!(refusal.contains("1G left and 2G are needed") && refusal.contains(&uuid(1).to_string()), "{refusal}");
        assert_eq!(chosen(&machine, 513, 4096).unwrap(), "render-1g");
    }

    #[test]
    fn who_has_what_is_wanted_is_called_by_name() {
        let mut machine = machine(&[gpu("software", 2 << 30)]);
        let definition = Definition { name: Some("desk".to_owned()), ..Definition::new(uuid(1), "render-2g") };
        settle(&mut machine, Event::Create { definition, start: true }).unwrap();
        let named = format!("held by {} 'desk' (render-2g, 2G)", uuid(1));
        let refusal = chosen(&machine, 1024, 1024).unwrap_err();
        assert!(refusal.ends_with(&named), "{refusal}");
        let definition = Definition::new(uuid(2), "render-1g");
        let refusal = settle(&mut machine, Event::Create { definition, start: true }).unwrap_err();
        assert!(refusal.to_string().ends_with(&named), "{refusal}");
    }

    #[test]
    fn what_no_type_is_is_refused_with_those_that_there_are() {
        let refusal = chosen(&machine(&[gpu("software", 1 << 30)]), 2048, 4096).unwrap_err();
        assert!(refusal.contains("at least 2G and at most 4G") && refusal.contains("render-1g (1G)"), "{refusal}");
    }

    #[test]
    fn of_two_gpus_the_fuller_one_is_filled() {
        let mut machine = machine(&[gpu("pci-0000:03:00.0", 4 << 30), gpu("pci-0000:04:00.0", 4 << 30)]);
        let definition = Definition::new(uuid(1), "render-1g-04-00.0");
        settle(&mut machine, Event::Create { definition, start: true }).unwrap();
        assert_eq!(chosen(&machine, 1024, 1024).unwrap(), "render-1g-04-00.0");
        let wish = Wish { gpu: Some(GpuId::pci("0000:03:00.0")), ..Wish::default() };
        assert_eq!(choose(&machine, &wish).unwrap().name, "render-512m-03-00.0");
    }

    #[test]
    fn three_d_is_had_when_it_is_asked_for() {
        let machine = machine(&[gpu("software", 1 << 30)]);
        let named = |three_d| choose(&machine, &Wish { three_d: Some(three_d), ..Wish::default() }).unwrap().name;
        assert_eq!((named(true).as_str(), named(false).as_str()), ("render-512m", "desktop-2d-128m"));
    }
}
