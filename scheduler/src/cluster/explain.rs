//! Why something is, or is not, being done about a region: in sentences, for people.
//!
//! What checkers say is asked anew, so it is never out of date; what balancers and operators have done comes from what
//! they remember.

use skerry_proto::types::RegionId;

use super::Cluster;
use crate::balance::Standing;
use crate::checkers::Verdict;
use crate::moment::Moment;
use crate::operator::Task;
use crate::region_tree::RegionRecord;
use crate::{Error, Result};

/// Ended operators of a region that are named.
const ENDED_MAX: usize = 5;

impl Cluster {
    /// What is known about a region, one sentence a line.
    pub fn explain(&self, region: RegionId, now: Moment) -> Result<Vec<String>> {
        self.settings()?;
        let record = self.regions.get(region).ok_or(Error::UnknownRegion(region.get()))?;
        let mut lines = vec![describe(record)];
        if self.schedule.current().halt_scheduling {
            lines.push("scheduling is halted".to_string());
        }
        if !self.is_prepared {
            let (spoken, all) = (self.regions.spoken(), self.regions.len());
            lines.push(format!("waiting until most have reported: {spoken} of {all} regions have"));
        }
        match self.operators.get(region) {
            Some(operator) => {
                let seconds = now.since(operator.created).as_secs();
                lines.push(format!("under way for {seconds} s: {operator}"));
            }
            None => lines.push(self.wish_for(record, now)),
        }
        for standing in self.balancers.standings(now) {
            let name = format!("{region} ");
            let reasons = standing.report.reasons.iter().filter(|it| it.starts_with(&name));
            lines.extend(reasons.map(|reason| format!("{}: {reason}", standing.spec.name.text())));
        }
        let ended = self.operators.history().filter(|ended| ended.operator.region == region);
        for ended in ended.take(ENDED_MAX) {
            let seconds = now.since(ended.at).as_secs();
            let (operator, ending) = (&ended.operator, &ended.ending);
            lines.push(format!("{seconds} s ago: {operator}: {ending}"));
        }
        Ok(lines)
    }

    /// What the balancers have last decided, one sentence a line.
    pub fn explain_balancers(&self, now: Moment) -> Result<Vec<String>> {
        let lines = |standing: Standing| {
            let name = standing.spec.name.text();
            let summary = match &standing.report.summary[..] {
                "" => "has not decided anything yet",
                summary => summary,
            };
            let first = format!("{name}: {summary}");
            let reasons = standing.report.reasons.into_iter();
            std::iter::once(first).chain(reasons.map(move |reason| format!("{name}: {reason}")))
        };
        Ok(self.balancers(now)?.into_iter().flat_map(lines).collect())
    }

    fn wish_for(&self, record: &RegionRecord, now: Moment) -> String {
        let Some(leader) = record.leader else {
            return "nothing can be done before its leader reports".to_string();
        };
        if !self.picture(now).hears(leader.store()) {
            return format!(
                "nothing can be done before {} or another leader speaks",
                leader.store()
            );
        }
        match self.verdict(record, now) {
            Verdict::Well if !self.is_prepared => "nothing that could be done before".to_string(),
            Verdict::Well => "nothing is wrong with it".to_string(),
            Verdict::Stuck(trouble) => format!("stuck: {trouble}"),
            Verdict::Do(plan) => match plan.task {
                Task::Do(step) => format!("next: {}, {step}", plan.name),
                Task::Reach(goal) => {
                    let voters: Vec<String> = goal.voters.iter().map(ToString::to_string).collect();
                    format!("next: {}, to voters on {}", plan.name, voters.join(" "))
                }
            },
        }
    }
}

fn describe(record: &RegionRecord) -> String {
    let leader = record.leader.map_or("nobody yet".to_string(), |leader| leader.to_string());
    format!("{} of {} MiB, led by {leader}", record.region, record.size_mib)
}
