use proptest::prelude::*;

use super::*;

fn examples(lengths: &[u32]) -> Vec<Example> {
    let make = |(place, length): (usize, &u32)| Example {
        tokens: (0..*length).map(|i| place as u32 * 1_000 + i + 1).collect(),
        scored: (0..*length).map(|i| i > 0 && i % 2 == 1).collect(),
        bytes: 0,
        source: 0,
    };
    lengths.iter().enumerate().map(make).collect()
}

fn build(plan: &BatchPlan, placements: &[Placement], examples: &[Example]) -> Batch {
    let get = |place: usize| Ok(Cow::Borrowed(&examples[place]));
    Batch::build(plan.rows(), plan.length(), placements, get).unwrap()
}

#[test]
fn two_examples_in_a_row_are_shifted_and_kept_apart() {
    let examples = examples(&[3, 4]);
    let plan = BatchPlan::new(&[3, 4], 1, 6, 0, true).unwrap();
    let batch = build(&plan, &plan.single_pass()[0], &examples);
    assert_eq!(batch.inputs, [1, 2, 1001, 1002, 1003, 0]);
    assert_eq!(batch.targets, [2, 3, 1002, 1003, 1004, 0]);
    assert_eq!(batch.scored, [true, false, true, false, true, false]);
    assert_eq!(batch.segments, [1, 1, 2, 2, 2, 0]);
    assert_eq!(batch.positions, [0, 1, 0, 1, 2, 0]);
    assert_eq!((batch.scored_tokens(), batch.tokens()), (3, 5));
}

#[test]
fn an_example_that_fits_no_row_is_named() {
    let error = BatchPlan::new(&[3, 9], 2, 7, 0, true).err().unwrap();
    assert_eq!(error.to_string(), "example 1 has 9 tokens, rows hold 2 to 8");
    assert!(BatchPlan::new(&[], 2, 7, 0, true).is_err());
    assert!(BatchPlan::new(&[1], 2, 7, 0, true).is_err());
}

#[test]
fn the_order_of_a_seed_never_changes() {
    let mut plan = BatchPlan::new(&[4; 8], 2, 4, 17, false).unwrap();
    let order: Vec<usize> = (0..4).flat_map(|step| plan.placements(step)).map(|p| p.example).collect();
    assert_eq!(order, [5, 6, 7, 0, 1, 3, 4, 2]);
}

#[test]
fn a_digest_sees_tokens_masks_and_borders() {
    let plain = examples(&[3, 3]);
    let plan = BatchPlan::new(&[3, 3], 1, 4, 0, true).unwrap();
    let placements = plan.single_pass().remove(0);
    let base = build(&plan, &placements, &plain);
    let mut other_mask = base.clone();
    other_mask.scored[0] = false;
    let mut other_border = base.clone();
    other_border.segments[2] = 1;
    let mut other_token = base.clone();
    other_token.targets[1] += 1;
    for other in [&other_mask, &other_border, &other_token] {
        assert_ne!(base.digest(), other.digest());
    }
    assert_eq!(base.digest(), build(&plan, &placements, &plain).digest());
}

#[test]
fn ten_thousand_steps_are_cheap() {
    let lengths: Vec<u32> = (0..5_000).map(|i| 8 + i % 120).collect();
    let mut plan = BatchPlan::new(&lengths, 16, 128, 1, true).unwrap();
    let start = std::time::Instant::now();
    let placed: usize = (0..10_000).map(|step| plan.placements(step).len()).sum();
    assert!(placed > 160_000);
    assert!(plan.efficiency() > 0.97, "{}", plan.efficiency());
    // Generous: an unoptimised build on a busy machine. It takes well under a second otherwise.
    assert!(start.elapsed().as_secs() < 30, "{:?}", start.elapsed());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_scored_token_comes_exactly_once_an_epoch(
        lengths in prop::collection::vec(2u32..18, 1..60),
        rows in 1usize..6,
        seed in any::<u64>(),
        pack in any::<bool>(),
    ) {
        let examples = examples(&lengths);
        let mut plan = BatchPlan::new(&lengths, rows, 17, seed, pack).unwrap();
        let steps = (plan.rows_per_epoch() * 3).div_ceil(rows) as u64 + 1;
        let mut seen: Vec<usize> = Vec::new();
        for step in 0..steps {
            let placements = plan.placements(step);
            seen.extend(placements.iter().map(|p| p.example));
            let batch = build(&plan, &placements, &examples);
            let marks: usize = placements.iter().map(|p| examples[p.example].scored_tokens()).sum();
            prop_assert_eq!(batch.scored_tokens(), marks);
            let tokens: usize = placements.iter().map(|p| examples[p.example].tokens.len() - 1).sum();
            prop_assert_eq!(batch.tokens(), tokens, "examples overlap");
            for p in &placements {
                let at = p.row * batch.length + p.offset;
                prop_assert_eq!(batch.inputs[at], examples[p.example].tokens[0]);
                prop_assert_eq!(batch.positions[at], 0);
            }
        }
        for epoch in seen.chunks_exact(lengths.len()).take(3) {
            let mut epoch = epoch.to_vec();
            epoch.sort_unstable();
            prop_assert_eq!(epoch, (0..lengths.len()).collect::<Vec<_>>());
        }
    }

    #[test]
    fn any_step_can_be_asked_first(
        lengths in prop::collection::vec(2u32..18, 1..40),
        rows in 1usize..5,
        seed in any::<u64>(),
        step in 0u64..50,
    ) {
        let mut in_order = BatchPlan::new(&lengths, rows, 17, seed, true).unwrap();
        let expected = (0..=step).map(|step| in_order.placements(step)).last().unwrap();
        let mut direct = BatchPlan::new(&lengths, rows, 17, seed, true).unwrap();
        prop_assert_eq!(&direct.placements(step), &expected);
        direct.placements(step + 7);
        prop_assert_eq!(&direct.placements(step), &expected);
    }

    #[test]
    fn one_pass_sees_every_example_once(
        lengths in prop::collection::vec(2u32..18, 1..40),
        rows in 1usize..5,
        pack in any::<bool>(),
    ) {
        let plan = BatchPlan::new(&lengths, rows, 17, 0, pack).unwrap();
        let mut seen: Vec<usize> = plan.single_pass().concat().iter().map(|p| p.example).collect();
        seen.sort_unstable();
        prop_assert_eq!(seen, (0..lengths.len()).collect::<Vec<_>>());
    }
}
