use serde_json::json;
use stillhouse_spec::Origin;
use stillhouse_stage::{AnyConfig, StageKind, Surroundings, View};

use super::super::Student;
use super::super::identity::canonical;
use super::super::tests::{World, both, table};
use super::*;

fn config(table: &Value) -> StudentConfig {
    let mut report = Diagnostics::default();
    let config = StudentConfig::decode(&Node::from_json(table), &mut report);
    config.unwrap_or_else(|| panic!("{:?}", report.sorted()))
}

/// An earlier result of a table, whose recipe differs in these fields.
fn against(table: &Value, fields: &[&str]) -> Against {
    let identity = canonical(config(table).describe()).text();
    let fields = fields.iter().map(|field| (*field).to_owned()).collect();
    Against { fields, identity: serde_json::from_str(&identity).unwrap() }
}

fn with(steps: u64, schedule: Value) -> Value {
    let mut table = table(steps, both());
    table["schedule"] = schedule;
    table
}

fn said(stored: u64, now: &Value, then: &Value, fields: &[&str]) -> String {
    in_words(&Stored { steps: stored, is_end: false }, &config(now), Some(&against(then, fields)))
}

struct Nothing;

impl Surroundings for Nothing {
    fn follow(&self, _label: &str, _path: &str) -> Option<View<'_>> {
        None
    }
}

/// The first remark on a student that is about to run.
fn remark(world: &World, table: &Value, against: Option<Against>) -> String {
    let decoded = config(table);
    let view = View::new("student.test", &Student, &decoded as &dyn AnyConfig, Origin::NOWHERE, &Nothing);
    let context = Some(world.context(table, []));
    Student.remarks(&Explained { view, context, against }).remove(0)
}

#[test]
fn every_key_of_a_table_is_known_to_be_in_some_states_or_in_no_recipe() {
    let schema = StudentConfig::schema();
    let keys = schema["properties"].as_object().unwrap().keys();
    let unknown: Vec<&str> = keys.map(String::as_str).filter(|key| reach(key).is_none()).collect();
    let execution = ["checkpoint-every", "gradient-checkpointing", "keep", "log-every", "micro-batch", "spike"];
    assert_eq!(unknown, execution);
}

#[test]
fn what_is_in_every_state_is_named_where_nothing_is_stored() {
    let now = table(40, both());
    assert_eq!(
        said(0, &now, &now, &["optimizer.adamw.lr"]),
        "none of its 40 steps is stored: `optimizer.adamw.lr` is in every one of them"
    );
    let all = ["seed", "inputs.data", "steps", "loss.jsd.weight", "init.llama.hidden", "batch.rows"];
    assert_eq!(
        said(0, &now, &now, &all),
        "none of its 40 steps is stored: `seed`, `inputs.data`, `loss.jsd.weight` and 2 more are in every one of them"
    );
    // What is stored is of another training then.
    assert_eq!(said(9, &now, &now, &["seed"]), "goes on from step 9 of 40, which is stored");
    assert_eq!(said(0, &now, &now, &["a-field-of-tomorrow", "seed"]), "none of its 40 steps is stored");
}

#[test]
fn a_schedule_is_said_to_part_at_the_first_step_that_it_moves() {
    let wsd = |steps: u64, decay: u64| with(steps, json!({ "wsd": { "decay": decay } }));
    let decay = &["schedule.wsd.decay"];
    assert_eq!(
        said(361, &wsd(400, 40), &wsd(400, 20), decay),
        "goes on from step 361 of 400, which is stored: `schedule.wsd.decay` makes a difference from step 362 on"
    );
    assert_eq!(
        said(300, &wsd(400, 40), &wsd(400, 20), decay),
        "goes on from step 300 of 400, which is stored: `schedule.wsd.decay` makes a difference from step 362 on, and no \
         checkpoint between was kept (see `checkpoint-every`, `keep.branches`)"
    );
    assert_eq!(
        said(0, &wsd(40, 4), &wsd(30, 4), &["steps"]),
        "none of its 40 steps is stored: `steps` makes a difference from step 28 on, and no checkpoint before was kept \
         (see `checkpoint-every`, `keep.branches`)"
    );
    assert_eq!(said(380, &wsd(400, 40), &wsd(400, 20), decay), "goes on from step 380 of 400, which is stored");
    let warm = |warmup: u64| with(40, json!({ "constant": { "warmup": warmup } }));
    assert_eq!(
        said(0, &warm(3), &warm(4), &["schedule.constant.warmup"]),
        "none of its 40 steps is stored: `schedule.constant.warmup` is in every one of them"
    );
    let cosine = |steps: u64| with(steps, json!({ "cosine": { "warmup": 5 } }));
    assert_eq!(
        said(6, &cosine(40), &cosine(20), &["steps"]),
        "goes on from step 6 of 40, which is stored: `steps` makes a difference from step 7 on"
    );
}

#[test]
fn a_length_alone_keeps_nothing_from_being_shared() {
    let constant = |steps: u64| table(steps, both());
    assert_eq!(said(20, &constant(40), &constant(20), &["steps"]), "goes on from step 20 of 40, which is stored");
    assert_eq!(
        said(10, &constant(15), &constant(20), &["steps"]),
        "goes on from step 10 of 15, which is stored: no checkpoint between there and step 15 was kept (see \
         `checkpoint-every`, `keep.branches`)"
    );
    assert_eq!(
        said(15, &constant(15), &constant(20), &["steps"]),
        "all of its 15 steps are stored: nothing is left to train"
    );
}

#[test]
fn a_weight_that_moves_is_shared_as_far_as_it_moves_alike() {
    let line = |after: u64| {
        let weight = json!({ "from": 1.0, "to": 0.0, "over": 10, "after": after });
        table(40, json!({ "cross-entropy": { "weight": weight }, "forward-kl": {} }))
    };
    let common = Then::read(&against(&line(8), &[]).identity).unwrap().common_steps(&config(&line(12)));
    assert!((8..=9).contains(&common), "{common}");
    assert_eq!(
        said(common, &line(12), &line(8), &["loss.cross-entropy.weight.after"]),
        format!(
            "goes on from step {common} of 40, which is stored: `loss.cross-entropy.weight.after` makes a difference from \
             step {} on",
            common + 1
        )
    );
}

#[test]
fn what_is_said_to_be_stored_is_what_a_training_goes_on_from() {
    let world = World::new(true);
    let (short, long) = (table(4, both()), table(9, both()));
    assert_eq!(remark(&world, &long, None), "none of its 9 steps is stored");
    world.run(&short).unwrap();
    assert_eq!(remark(&world, &long, None), "goes on from step 4 of 9, which is stored");
    assert_eq!(remark(&world, &short, None), "all of its 4 steps are stored: nothing is left to train");
    let mut other = long.clone();
    other["optimizer"]["adamw"]["lr"] = json!(1e-3);
    assert_eq!(
        remark(&world, &other, Some(against(&long, &["optimizer.adamw.lr"]))),
        "none of its 9 steps is stored: `optimizer.adamw.lr` is in every one of them"
    );
    assert!(world.heard.0.lock().unwrap().iter().all(|event| !format!("{event:?}").contains("Resumed")));
    let (outcome, _) = world.run(&long).unwrap();
    assert_eq!(outcome.provenance["resumed-from-step"], 4);
}

#[test]
fn a_training_that_ended_early_is_said_to_be_there_up_to_its_end() {
    let world = World::new(true);
    let mut patient = table(60, both());
    patient["optimizer"]["adamw"]["lr"] = json!(0.3);
    patient["early-stop"] = json!({ "every": 2, "patience": 1 });
    let (outcome, _) = world.run(&patient).unwrap();
    let end = outcome.metrics["steps"].as_u64().unwrap();
    assert!(end < 60, "{}", outcome.metrics);
    assert_eq!(remark(&world, &patient, None), format!("the training ends early at step {end}, which is stored"));
    patient["early-stop"]["patience"] = json!(2);
    assert_eq!(remark(&world, &patient, None), format!("goes on from step {end} of 60, which is stored"));
}

#[test]
fn what_can_not_be_read_is_said_in_place_of_a_number() {
    let world = World::new(false);
    let mut short = table(2, json!("cross-entropy"));
    short["batch"]["length"] = json!(5);
    let said = remark(&world, &short, None);
    assert!(
        said.starts_with("how many of its 2 steps are stored can't be told: ") && said.contains("rows hold"),
        "{said}"
    );
}
