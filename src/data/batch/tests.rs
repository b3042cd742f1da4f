use proptest::prelude::*;

use super::*;

/// Rows of the stream that epoch 0 takes; by tokens: batches.
fn rows_per_epoch(plan: &mut BatchPlan) -> usize {
    plan.packed(0).len()
}

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
fn steps_by_tokens_hold_neighbours_in_length_and_as_many_as_fit() {
    let lengths = [9, 3, 5, 9, 3, 4, 3];
    let mut plan = BatchPlan::by_tokens(&lengths, 8, 17).unwrap();
    let shapes: Vec<(usize, usize)> = (0..rows_per_epoch(&mut plan) as u64).map(|step| plan.shape(step)).collect();
    let mut sorted = shapes.clone();
    sorted.sort_unstable();
    // Spans 2 2 2 3 | 4 | 8 | 8: a fourth row of 3 makes 12 positions, so the 3 begins a batch, which a 4 joins.
    assert_eq!(sorted, [(1, 8), (1, 8), (2, 4), (3, 2)]);
    assert_eq!(plan.efficiency(), 29.0 / 30.0);
    let examples = examples(&lengths);
    for (step, (rows, length)) in shapes.iter().enumerate() {
        let placements = plan.placements(step as u64);
        let get = |place: usize| Ok(Cow::Borrowed(&examples[place]));
        assert_eq!(Batch::build(*rows, *length, &placements, get).unwrap().placements.len(), *rows);
    }
    let error = BatchPlan::by_tokens(&lengths, 7, 17).err().unwrap();
    assert_eq!(error.to_string(), "example 0 has 9 tokens, a batch holds 7");
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
        let steps = (rows_per_epoch(&mut plan) * 3).div_ceil(rows) as u64 + 1;
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
    fn by_tokens_every_example_comes_once_an_epoch_and_no_step_is_too_large(
        lengths in prop::collection::vec(2u32..18, 1..60),
        tokens in 17usize..80,
        seed in any::<u64>(),
        asked in 0u64..40,
    ) {
        let mut plan = BatchPlan::by_tokens(&lengths, tokens, seed).unwrap();
        let steps = rows_per_epoch(&mut plan) as u64;
        for epoch in 0..2 {
            let mut seen = Vec::new();
            for step in epoch * steps..(epoch + 1) * steps {
                let (rows, length) = plan.shape(step);
                prop_assert!(rows * length <= tokens);
                let placements = plan.placements(step);
                prop_assert_eq!(placements.len(), rows);
                seen.extend(placements.iter().map(|p| p.example));
            }
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..lengths.len()).collect::<Vec<_>>());
        }
        let mut direct = BatchPlan::by_tokens(&lengths, tokens, seed).unwrap();
        prop_assert_eq!(direct.shape(asked), plan.shape(asked));
        prop_assert_eq!(direct.placements(asked), plan.placements(asked));
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
