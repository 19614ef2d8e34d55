//! Asks for a split of regions that have grown beyond `split-size-mib`. Stores cut regions by a size of their
//! own; this is for an operator who wants them smaller, everywhere and at once. The store looks for the place.

use skerry_proto::pdpb::CheckPolicy;

use super::Verdict;
use crate::operator::{Kind, Plan, Priority, Step, Task};
use crate::picture::Picture;
use crate::region_tree::RegionRecord;

/// See the module.
pub fn check(picture: &Picture<'_>, record: &RegionRecord) -> Verdict {
    let limit = picture.settings.split_size_mib;
    if limit == 0 || record.size_mib < limit {
        return Verdict::Well;
    }
    Verdict::Do(Plan {
        region: record.id(),
        name: "split-by-size",
        kind: Kind::Split,
        priority: Priority::Repair,
        task: Task::Do(Step::Split { policy: CheckPolicy::Approximate, keys: Vec::new() }),
    })
}
