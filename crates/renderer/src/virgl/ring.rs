//! The rings of Venus, over which guests' drivers talk to the library past the device.

/// `vkCreateRingMESA`, which Mesa says in a stream of its own: the first word of it.
const CREATE_RING: u32 = 188;
/// `VK_STRUCTURE_TYPE_RING_CREATE_INFO_MESA`
const CREATE_INFO: u32 = 1_000_384_000;
/// `VK_STRUCTURE_TYPE_RING_MONITOR_INFO_MESA`
const MONITOR_INFO: u32 = 1_000_384_006;
/// The longest between two signs of life, in microseconds.
const LONGEST: u32 = 500_000;

/// Has a ring that these commands create show that its process lives at least twice a second, however seldom the driver wants to see it.
///
/// Mesa asks for a sign every 3 s and ends its program when it has seen none after 3.5 s of waiting. A process that others' turns
/// stop, or that a busy host lets wait, is late by more than half a second. What is asked for is the *longest* time, so a
/// shorter one is as the driver wants it.
pub(super) fn show_life(commands: &mut [u8]) {
    let (words, _) = commands.as_chunks_mut::<4>();
    // The command, its flags and the ring's number; a pointer, the type of what it points to, and a pointer to what extends that: its
    // type, no further pointer, and the period. The number and the pointers, of which it matters only that they are there, have two words.
    let [command, _flags, _, _, info_low, info_high, info, next_low, next_high, next, end_low, end_high, period, ..] =
        words
    else {
        return;
    };
    let is = |word: &[u8; 4], value: u32| u32::from_le_bytes(*word) == value;
    let points = |low: &[u8; 4], high: &[u8; 4]| !(is(low, 0) && is(high, 0));
    let creates = is(command, CREATE_RING) && points(info_low, info_high) && is(info, CREATE_INFO);
    let is_watched = points(next_low, next_high) && is(next, MONITOR_INFO) && !points(end_low, end_high);
    if creates && is_watched {
        *period = u32::from_le_bytes(*period).min(LONGEST).to_le_bytes();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Mesa 26.1 says.
    const MESA: [u32; 34] = [
        188, 0, 1753478816, 21932, 1, 0, 1000384000, 1, 0, 1000384006, 0, 0, 3_000_000, 0, 3, 0, 0, 131268, 0, 1000000,
        0, 0, 0, 64, 0, 128, 0, 192, 0, 131072, 0, 131264, 0, 4,
    ];
    const PERIOD: usize = 12;

    fn shown(words: &[u32]) -> Vec<u32> {
        let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        show_life(&mut bytes);
        bytes.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word)).collect()
    }

    #[test]
    fn a_ring_shows_life_twice_a_second_and_is_else_as_it_was_asked_for() {
        let mut expected = MESA;
        expected[PERIOD] = LONGEST;
        assert_eq!(shown(&MESA), expected);
    }

    #[test]
    fn who_asks_for_more_gets_it_and_what_is_no_period_stays_one() {
        for period in [0, 1, LONGEST] {
            let mut asked = MESA;
            asked[PERIOD] = period;
            assert_eq!(shown(&asked), asked);
        }
    }

    #[test]
    fn other_commands_are_left_alone() {
        for (place, other) in [(0, 187), (4, 0), (6, 0), (7, 0), (9, 1), (10, 1), (11, 1)] {
            let mut asked = MESA;
            asked[place] = other;
            assert_eq!(shown(&asked), asked, "word {place}");
        }
        for length in 0..=PERIOD {
            assert_eq!(shown(&MESA[..length]), MESA[..length]);
        }
    }
}
