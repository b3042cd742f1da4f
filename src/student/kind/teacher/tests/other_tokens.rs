//! A teacher with a tokenizer of its own.

use stillhouse_spec::Config;

use super::super::super::config::StudentConfig;
use super::*;

/// A copy of the world's teacher whose tokenizer numbers two words the other way round.
fn renumbered(world: &World) -> PathBuf {
    changed(world, "renumbered", "\"w3\":3,\"w4\":4", "\"w3\":4,\"w4\":3")
}

fn uld() -> Value {
    json!({ "cross-entropy": { "weight": 0.5 }, "uld": { "weight": 0.5 } })
}

#[test]
fn a_student_learns_from_a_teacher_with_other_tokens_and_goes_on_from_where_it_was() {
    let mut world = with_teacher();
    let other = renumbered(&world);
    install(&mut world, &other);
    let (outcome, _) = world.run(&beside(4, uld())).unwrap();
    // Every word is a token on both sides.
    assert_eq!(outcome.metrics["aligned"], 1.0, "{}", outcome.metrics);
    assert!(outcome.metrics["uld"].as_f64().unwrap() > 0.0);
    let (longer, went_on) = world.run(&beside(9, uld())).unwrap();
    assert_eq!(longer.provenance["resumed-from-step"], 4);
    let mut at_once = with_teacher();
    let other = renumbered(&at_once);
    install(&mut at_once, &other);
    let (_, undisturbed) = at_once.run(&beside(9, uld())).unwrap();
    assert!(weights(&went_on) == weights(&undisturbed));
    let (late, _) = world.run(&beside(60, uld())).unwrap();
    let fallen = |outcome: &stillhouse_stage::Outcome| outcome.metrics["uld"].as_f64().unwrap();
    assert!(fallen(&late) < 0.7 * fallen(&outcome), "{} {}", outcome.metrics, late.metrics);
}

#[test]
fn the_same_weights_with_another_tokenizer_are_another_teacher() {
    let mut world = with_teacher();
    let one = renumbered(&world);
    let two = changed(&world, "two", "\"w1\":1,\"w2\":2", "\"w1\":2,\"w2\":1");
    install(&mut world, &one);
    let (_, out) = world.run(&beside(3, uld())).unwrap();
    install(&mut world, &two);
    let (other, other_out) = world.run(&beside(3, uld())).unwrap();
    assert!(!other.resumed && weights(&out) != weights(&other_out));
    install(&mut world, &one);
    let (again, _) = world.run(&beside(3, uld())).unwrap();
    assert_eq!((again.resumed, again.provenance["tokens"].as_u64()), (true, Some(0)));
}

#[test]
fn held_out_text_is_measured_in_the_teachers_tokens() {
    let mut world = with_teacher();
    let other = renumbered(&world);
    install(&mut world, &other);
    let mut config = beside(12, json!({ "uld": {} }));
    config["early-stop"] = json!({ "every": 4, "metric": "uld" });
    let (outcome, _) = world.run(&config).unwrap();
    let measured = outcome.metrics["validation"].as_f64().unwrap();
    assert!((0.0..=2.0).contains(&measured), "{}", outcome.metrics);
    assert_eq!(outcome.metrics["best-step"], 12);
}

#[test]
fn a_teacher_with_the_same_tokens_will_do_as_well() {
    let world = with_teacher();
    let (outcome, _) = world.run(&beside(60, json!({ "uld": {} }))).unwrap();
    assert!(outcome.metrics.get("aligned").is_none());
    assert!(outcome.metrics["uld"].as_f64().unwrap() < 0.5, "{}", outcome.metrics);
}

#[test]
fn a_loss_by_token_beside_it_is_refused_still() {
    let mut world = with_teacher();
    let other = renumbered(&world);
    install(&mut world, &other);
    let failure = world.run(&beside(2, json!({ "uld": {}, "forward-kl": {} }))).err().unwrap();
    assert!(failure.message.starts_with("teacher.bard reads other tokens"), "{}", failure.message);
    assert!(failure.hint.unwrap().contains("`uld`"));
    // One whose weight is nothing is never computed.
    world.run(&beside(2, json!({ "uld": {}, "forward-kl": { "weight": 0 } }))).unwrap();
}

#[test]
fn a_teacher_that_meets_few_tokens_or_none_is_told() {
    let mut world = with_teacher();
    // Room for the first few tokens of every text only.
    let other = renumbered(&world);
    let context = |context: usize| {
        let path = other.join("config.json");
        let mut config: Value = serde_json::from_str(&fs_err::read_to_string(&path).unwrap()).unwrap();
        config["max_position_embeddings"] = json!(context);
        fs_err::write(&path, config.to_string()).unwrap();
    };
    context(2);
    install(&mut world, &other);
    let (outcome, _) = world.run(&beside(2, json!({ "uld": {} }))).unwrap();
    let share = outcome.metrics["aligned"].as_f64().unwrap();
    assert!(0.0 < share && share < 0.5, "{share}");
    let [warning] = &world.warnings()[..] else { panic!("{:?}", world.warnings()) };
    let percent = format!(
        "{:.1} % of the scored tokens lie behind the longest sequence of teacher.bard, 2 of",
        100.0 - share * 100.0
    );
    assert!(warning.starts_with(&percent) && warning.ends_with("a teacher with a longer context"), "{warning}");
    context(1);
    install(&mut world, &other);
    let failure = world.run(&beside(2, json!({ "uld": {} }))).err().unwrap();
    let message = "teacher.bard has room for none of the scored tokens: its longest sequence has 1 of its own";
    assert_eq!(failure.message, message);
    assert!(failure.hint.unwrap().contains("context"));
}

#[test]
fn tokens_that_begin_elsewhere_are_told_from_texts_that_are_too_long() {
    use super::super::Met;
    let judged = |met, behind| Met { scored: 100, met, behind, room: 64 }.judged("teacher.t", "");
    let warned = |met, behind| judged(met, behind).unwrap().1.join(" | ");
    assert_eq!(warned(60, 0), "");
    assert!(warned(40, 0).starts_with("only 40.0 % of the scored tokens begin where one of teacher.t's does"));
    // Of the 60 that it has room for, 40 are met.
    assert!(warned(40, 40).starts_with("40.0 % of the scored tokens lie behind") && !warned(40, 40).contains("only"));
    assert!(warned(20, 40).contains(" | only 20.0 %"));
    let refused = |behind| judged(0, behind).err().unwrap();
    assert!(refused(0).message.starts_with("not one scored token begins where"), "{}", refused(0).message);
    assert!(refused(1).message.starts_with("teacher.t has room for none of the scored tokens"));
}

#[test]
fn held_out_text_that_never_meets_the_teachers_tokens_is_refused_where_it_is_measured() {
    let mut world = with_teacher();
    // The one held-out example has its first scored token where a teacher of this context reads no more.
    let other = renumbered(&world);
    let path = other.join("config.json");
    let mut shape: Value = serde_json::from_str(&fs_err::read_to_string(&path).unwrap()).unwrap();
    shape["max_position_embeddings"] = json!(3);
    fs_err::write(&path, shape.to_string()).unwrap();
    install(&mut world, &other);
    world.hold_out_scored_from(5);
    let measured = |loss: Value, metric: &str| {
        let mut config = beside(2, loss);
        config["early-stop"] = json!({ "every": 1, "metric": metric });
        world.run(&config)
    };
    for (loss, metric) in [(uld(), "uld"), (uld(), "loss")] {
        let failure = measured(loss, metric).err().unwrap();
        assert_eq!(
            failure.message,
            "teacher.bard has room for none of the scored tokens of the held-out examples: its longest sequence has 3 of its own"
        );
    }
    let (outcome, _) = measured(uld(), "cross-entropy").unwrap();
    assert!(outcome.metrics["validation"].as_f64().unwrap() > 0.0);
}

#[test]
fn what_it_takes_is_said_before_anything_runs() {
    let world = with_teacher();
    let folder = world.files["teacher.model.path"].path.clone();
    let other = renumbered(&world);
    let said = |loss: Value, model: Option<&'static str>| {
        let complaints = tables(&beside(2, loss), model, [&folder, &other]).complaints();
        complaints
            .into_iter()
            .map(|(message, hint)| format!("{message} / {}", hint.unwrap_or_default()))
            .collect::<Vec<_>>()
    };
    assert_eq!(said(uld(), Some("model.n")), [""; 0]);
    assert_eq!(said(uld(), Some("model.m")), [""; 0]);
    let [message] = &said(json!({ "forward-kl": {}, "uld": {} }), Some("model.n"))[..] else { panic!() };
    assert!(
        message.starts_with("`forward-kl` compares token by token, but student.s reads model.m's tokens"),
        "{message}"
    );
    assert!(message.contains("compare with `uld` alone"), "{message}");
    let [message] = &said(uld(), None)[..] else { panic!() };
    assert!(message.starts_with("teacher.t is a server, which can't run beside a student / `uld`"), "{message}");
}

#[test]
fn without_a_teacher_beside_it_nothing_can_be_compared() {
    for loss in [json!({ "cross-entropy": {}, "uld": { "weight": 0.5 } }), json!("uld")] {
        let mut report = Diagnostics::default();
        StudentConfig::decode(&Node::from_json(&table(2, loss)), &mut report);
        let [error] = report.sorted()[..] else { panic!("{:?}", report.sorted()) };
        assert_eq!(error.message, "`uld` compares with a teacher beside the student, and none is named");
        assert!(error.hint.as_ref().unwrap().contains("its tokenizer may be another"));
    }
    let mut report = Diagnostics::default();
    let weightless = json!({ "cross-entropy": {}, "uld": { "weight": 0 } });
    StudentConfig::decode(&Node::from_json(&table(2, weightless)), &mut report);
    assert!(report.sorted().is_empty(), "{:?}", report.sorted());
}
