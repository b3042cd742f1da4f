//! What can't be compared or gone on from.

use super::*;

#[test]
fn what_can_not_be_compared_is_refused_before_the_first_step() {
    let refused = |loss: &dyn Loss, teacher: Option<LiveTeacher<Cpu>>| {
        let losses: [(&str, &dyn Loss); 1] = [("hidden-mse", loss)];
        let error =
            train(&losses, teacher, Setup::default(), &InMemory::default(), &mut Watcher::default()).err().unwrap();
        (error.to_string(), error.hint().unwrap())
    };
    let (message, hint) = refused(&mse(&[]), None);
    assert!(message.contains("hidden states of a teacher beside the student, and none is named"), "{message}");
    assert!(hint.contains("provider = \"local\""), "{hint}");
    let (message, hint) = refused(&mse(&[(1, 1), (3, 2)]), Some(teacher()));
    assert_eq!(message, "`hidden-mse` compares layer 3 of the student, which has 2 layers");
    assert_eq!(hint, "layers count from 0, the embedding, to 2, what the final norm reads");
    let (message, hint) = refused(&mse(&[(3, 2), (2, 4)]), Some(teacher()));
    assert_eq!(
        message,
        "`hidden-mse` compares layer 3 of the student, which has 2 layers; `hidden-mse` compares layer 4 of the teacher, which \
         has 3 layers"
    );
    assert!(hint.contains("to 2, what the final norm reads; layers count") && hint.contains("to 3"), "{hint}");
    let (message, _) = refused(&mse(&[(2, 4)]), Some(teacher()));
    assert_eq!(message, "`hidden-mse` compares layer 4 of the teacher, which has 3 layers");
    let (message, hint) = refused(&HiddenMse { weight: ONE, layers: unprojected() }, Some(teacher()));
    assert!(message.contains("have 32 numbers and the teacher's 48"), "{message}");
    assert_eq!(hint, "take `projection = \"learned\"`");
}

#[test]
fn a_checkpoint_with_other_maps_is_refused() {
    let mse = mse(&[]);
    let losses = Losses::new([("hidden-mse", &mse as &dyn Loss)]);
    let compared = ComparedLayers::of(&losses, &tiny(), Some(&teacher_config())).unwrap();
    let state = || {
        let state = State::<CpuTape>::new(fresh(&tiny(), 3, &Default::default()).unwrap(), &tiny());
        state.comparing(compared.clone(), 5)
    };
    let mut start = state().checkpoint();
    let name = "projections.hidden-mse.0.weight";
    start.projections[name] = Values::new(vec![32, 48], start.projections[name].data.to_vec());
    let refused = |start: &Checkpoint| state().take_up(start, &Default::default()).err().unwrap().to_string();
    let said = refused(&start);
    assert!(
        said.contains("the projections of the checkpoint of step 0 hold `projections.hidden-mse.0.weight`"),
        "{said}"
    );
    start.projections.clear();
    assert!(refused(&start).contains("lack `projections.hidden-mse.0.weight`"));
}
