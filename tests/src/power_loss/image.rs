//! The bytes of one file after a power cut, from its bytes as they are and as they were last synced.
//!
//! The disk has every synced byte. Of the pages written since, it may have none, the first so many, or any;
//! the last of them may be torn in the middle; and where the file had grown, it may have its new length
//! already, with zeros in the sectors that were not written. Bytes of other files never appear there: the
//! file systems promise that unless they are told not to (ext4 with `data=writeback`).

use super::Chance;

/// The unit in which an operating system writes back.
const PAGE: usize = 4096;
/// The unit in which a disk writes.
const SECTOR: usize = 512;

/// One possible content after the cut.
pub(super) fn after_power_loss(live: &[u8], durable: &[u8], chance: &mut Chance) -> Vec<u8> {
    match chance.below(4) {
        0 => durable.to_vec(),
        1 => any_pages(live, durable, chance),
        _ => torn(live, durable, chance),
    }
}

/// The writes up to some byte happened, those behind it did not. If the file has its new length, that byte is
/// the first of a sector.
fn torn(live: &[u8], durable: &[u8], chance: &mut Chance) -> Vec<u8> {
    let same = live.iter().zip(durable).take_while(|(live, durable)| live == durable).count();
    let mut tear = same + chance.below((live.len() - same) as u64 + 1) as usize;
    let has_new_length = chance.below(2) == 0;
    if has_new_length {
        tear = tear.next_multiple_of(SECTOR).min(live.len());
    }
    let mut after = live[..tear].to_vec();
    after.extend_from_slice(durable.get(tear..).unwrap_or_default());
    if has_new_length {
        after.resize(live.len().max(after.len()), 0);
    }
    after
}

/// Each page is the new or the old one. Where there was none, it is zeros.
fn any_pages(live: &[u8], durable: &[u8], chance: &mut Chance) -> Vec<u8> {
    let mut after = durable.to_vec();
    after.resize(live.len().max(durable.len()), 0);
    for (number, page) in live.chunks(PAGE).enumerate() {
        if chance.below(2) == 0 {
            after[number * PAGE..number * PAGE + page.len()].copy_from_slice(page);
        }
    }
    after
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcomes(live: &[u8], durable: &[u8]) -> Vec<Vec<u8>> {
        (0..500).map(|seed| after_power_loss(live, durable, &mut Chance::of(seed))).collect()
    }

    #[test]
    fn of_a_file_that_grew_everything_synced_survives() {
        let live: Vec<u8> = (0..20_000_u32).map(|number| (number % 251) as u8).collect();
        let durable = &live[..9_000];
        let outcomes = outcomes(&live, durable);
        assert!(outcomes.iter().all(|after| after.starts_with(durable)));
        assert!(outcomes.iter().any(|after| after == durable), "all of the rest may be gone");
        assert!(outcomes.contains(&live), "or nothing of it");
        let torn = |after: &Vec<u8>| after.len() > 9_000 && live.starts_with(after);
        assert!(outcomes.iter().any(|after| torn(after) && after.len() % PAGE != 0), "or a part");
        let blank_end =
            |after: &Vec<u8>| after.len() == live.len() && after.ends_with(&[0; SECTOR]);
        assert!(outcomes.iter().any(blank_end), "or it ends in sectors that nobody wrote");
    }

    #[test]
    fn of_a_file_that_was_overwritten_each_byte_is_the_old_or_the_new_one() {
        let (live, durable) = (vec![b'n'; 20_000], vec![b'o'; 20_000]);
        let outcomes = outcomes(&live, &durable);
        assert!(outcomes.iter().all(|after| after.len() == 20_000));
        assert!(outcomes.iter().flatten().all(|byte| b"no".contains(byte)));
        let out_of_order = |after: &Vec<u8>| after.windows(2).any(|pair| pair == b"on");
        assert!(outcomes.iter().any(out_of_order), "a later page without an earlier one");
    }

    #[test]
    fn of_a_file_that_was_cut_the_bytes_before_the_cut_survive() {
        let durable = vec![b'x'; 10_000];
        assert!(
            outcomes(&durable[..4_000], &durable)
                .iter()
                .all(|after| after.starts_with(&durable[..4_000]))
        );
    }
}
