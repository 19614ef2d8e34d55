//! Leaves joint configurations: what a restart of the scheduler, or an operator that was cancelled, has left between
//! two. Somebody of the new configuration may have to wait for it, and no other change is possible before.

use skerry_raftstore::region::is_joint;

use super::Verdict;
use crate::operator::{Kind, Plan, Priority, Step, Task};
use crate::picture::Picture;
use crate::planted::Planted;
use crate::region_tree::RegionRecord;

/// See the module.
pub fn check(picture: &Picture<'_>, record: &RegionRecord) -> Verdict {
    if !is_joint(&record.region) || picture.planted == Some(Planted::JointNeverLeft) {
        return Verdict::Well;
    }
    Verdict::Do(Plan {
        region: record.id(),
        name: "leave-joint",
        kind: Kind::Replica,
        priority: Priority::Repair,
        task: Task::Do(Step::LeaveJoint),
    })
}
