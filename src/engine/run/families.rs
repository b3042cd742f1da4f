//! Who runs after whom, so that the later one goes on from what the earlier one leaves.

use std::collections::BTreeMap;

use stillhouse_spec::Canonical;
use stillhouse_stage::Family;
use stillhouse_store::Digest;

use crate::experiment::{Stage, StageId};
use crate::plan::PlannedStage;

/// A stage's family and its place in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    family: Digest,
    order: u64,
}

impl Member {
    /// The place of a stage among those that are equal to it but for what its kind says.
    pub(crate) fn of(stage: &Stage, planned: &PlannedStage, family: &Family) -> Self {
        let mut settings = stage.identity.clone();
        if let Canonical::Object(members) = &mut settings {
            members.retain(|name, _| !family.apart_from.contains(&name.as_str()));
        }
        let inputs = stage.inputs.iter().map(|(path, (upstream, parts))| {
            let parts = parts.iter().map(|part| Canonical::from(*part)).collect::<Vec<_>>();
            (
                path.clone(),
                Canonical::Array(vec![Canonical::from(upstream.index().to_string()), Canonical::Array(parts)]),
            )
        });
        let files = planned.files.iter().map(|(path, file)| (path.clone(), Canonical::from(file.digest.to_string())));
        let same = Canonical::object([
            ("kind", Canonical::from(stage.kind.name())),
            ("name", Canonical::from(family.name.as_str())),
            ("settings", settings),
            ("inputs", Canonical::object(inputs)),
            ("files", Canonical::object(files)),
            ("seed", Canonical::from(stage.seed.to_string())),
        ]);
        Self { family: Digest::of(same.text().as_bytes()), order: family.order }
    }
}

/// The families of which a member runs.
#[derive(Debug, Default)]
pub(crate) struct Families {
    running: BTreeMap<Digest, StageId>,
}

impl Families {
    pub(crate) fn started(&mut self, id: StageId, member: Option<Member>) {
        self.running.extend(member.map(|member| (member.family, id)));
    }

    pub(crate) fn ended(&mut self, id: StageId) {
        self.running.retain(|_, running| *running != id);
    }

    /// For each of the stages that are ready the one that goes first, if there is one: the member of its family that runs,
    /// or else the one of the lowest order, of equal ones the first.
    pub(crate) fn first_of(&self, ready: &[(StageId, Option<Member>)]) -> Vec<Option<StageId>> {
        let mut first: BTreeMap<Digest, (u64, StageId)> = BTreeMap::new();
        for (id, member) in ready.iter().filter_map(|(id, member)| Some((*id, (*member)?))) {
            let known = first.entry(member.family).or_insert((member.order, id));
            if member.order < known.0 {
                *known = (member.order, id);
            }
        }
        let before = |(id, member): &(StageId, Option<Member>)| {
            let family = member.as_ref()?.family;
            let running = self.running.get(&family).copied();
            running.or_else(|| first.get(&family).map(|(_, id)| *id)).filter(|first| first != id)
        };
        ready.iter().map(before).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready(stages: &[(u32, &str, u64)]) -> Vec<(StageId, Option<Member>)> {
        let member = |family: &str, order| Member { family: Digest::of(family.as_bytes()), order };
        let one = |(id, family, order): &(u32, &str, u64)| {
            (StageId::from(*id), Some(member(family, *order)).filter(|_| !family.is_empty()))
        };
        stages.iter().map(one).collect()
    }

    #[test]
    fn the_lowest_order_goes_first_and_of_equal_ones_the_first() {
        let ready = ready(&[(1, "a", 400), (2, "", 0), (3, "a", 200), (4, "b", 7), (5, "a", 200)]);
        let first = Families::default().first_of(&ready);
        let three = Some(StageId::from(3));
        assert_eq!(first, [three, None, None, None, three]);
    }

    #[test]
    fn whoever_runs_goes_first_whatever_its_order_until_it_ends() {
        let ready = ready(&[(1, "a", 400), (3, "a", 200), (4, "b", 7)]);
        let mut families = Families::default();
        families.started(ready[0].0, ready[0].1);
        assert_eq!(families.first_of(&ready[1..]), [Some(ready[0].0), None]);
        families.ended(ready[0].0);
        assert_eq!(families.first_of(&ready[1..]), [None, None]);
    }
}
