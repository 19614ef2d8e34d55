//! What lies where in one map of keys: how much in front of some of its keys.
//!
//! A map that is counted has every key marked as long as there are few. When they become too many, they are thinned out
//! to places that lie evenly in bytes: then a mark is near every place, whatever the pairs are like, and the memory
//! for it is bounded.

use bytes::Bytes;

use super::{Map, extent_of};
use crate::Result;
use crate::engine::View;
use crate::extent::Extent;

/// Marks at which every key is no longer one; half as many stay.
const MARKS_MAX: usize = 1024;

/// See the module.
#[derive(Default)]
pub(super) struct Outline {
    /// In the order of their keys.
    marks: Vec<Mark>,
    total: Extent,
    /// Bytes that lie between two marks at least.
    spacing: u64,
}

/// A place in a map.
pub(super) struct Mark {
    /// A data key, which need not be there.
    pub(super) key: Bytes,
    /// What lies in front of it.
    pub(super) before: Extent,
}

impl Outline {
    /// That of a map which is walked over from one end to the other.
    pub(super) fn count(view: &dyn View, map: &Map) -> Result<Outline> {
        let mut outline = Outline::default();
        let mut cursor = view.cursor_once(map.family, &map.range)?;
        let mut standing = cursor.seek_to_first()?;
        while standing {
            outline.add(cursor.key(), extent_of(map.family, cursor.as_ref()));
            standing = cursor.next()?;
        }
        Ok(outline)
    }

    /// Adds what lies from `key` up to the next one that is added. Keys ascend.
    pub(super) fn add(&mut self, key: &[u8], extent: Extent) {
        let last = self.marks.last().map(|mark| mark.before.bytes);
        if last.is_none_or(|last| self.total.bytes - last >= self.spacing) {
            let key = Bytes::copy_from_slice(key);
            self.marks.push(Mark { key, before: self.total });
        }
        self.total += extent;
        if self.marks.len() > MARKS_MAX {
            self.thin_out();
        }
    }

    /// In the order of their keys.
    pub(super) fn marks(&self) -> &[Mark] {
        &self.marks
    }

    /// Of the whole map.
    pub(super) fn total(&self) -> Extent {
        self.total
    }

    fn thin_out(&mut self) {
        let spacing = self.total.bytes / (MARKS_MAX as u64 / 2);
        let mut last = None;
        self.marks.retain(|Mark { before, .. }| {
            let stays = last.is_none_or(|last| before.bytes - last >= spacing);
            if stays {
                last = Some(before.bytes);
            }
            stays
        });
        self.spacing = spacing;
    }
}
