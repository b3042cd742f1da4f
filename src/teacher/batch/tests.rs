//! Lives that end at the worst moment, and several at the same time: dropping what asks leaves on disk what a kill leaves.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use stillhouse_data::prompt::{Message, Prompt};
use stillhouse_stage::{Cancel, Failure};
use tokio::sync::Notify;

use super::{BatchOptions, Journal};
use crate::answers::OnRejected;
use crate::asking::{Asking, Batches, Paid, Question};
use crate::provider::api::Auth;
use crate::provider::openai::{ChatApi, Dialect};
use crate::provider::server::Client;
use crate::replies::ReplyStore;
use crate::reply::Reply;
use crate::request::{Capture, Identity, Request, Sampling};
use crate::testing::{Act, Asked, BatchServer, FakeTeacher, Line};
use crate::transport::endpoint::Address;
use crate::transport::{Endpoint, Estimate, Governor, Limits};

const PROMPTS: u64 = 40;

fn question(number: u64) -> Question {
    // The end of the conversation is the assistant's own: it matters in reading the reply.
    let messages = vec![Message::user("count"), Message::assistant(format!("from {number}"))];
    let prompt = Arc::new(Prompt::new(messages.clone(), None));
    let sampling = Sampling { temperature: 0.0, top_p: 1.0, top_k: None, max_tokens: 64, stop: Vec::new() };
    let request =
        Request { messages, sampling, capture: Some(Capture::TopK(2)), sample: 0, attempt: 0, seed: None, given: None };
    Question { prompt, number, request }
}

/// One process with its own view of the store.
struct Life {
    asking: Arc<Asking>,
    place: String,
}

impl Life {
    fn new(folder: &Path, place: &str) -> Self {
        Self::within(folder, place, &Arc::new(Governor::new(&Limits::default())))
    }

    fn within(folder: &Path, place: &str, governor: &Arc<Governor>) -> Self {
        let identity = Identity { family: "openai-chat", model: "fake-1".to_owned(), revision: None };
        let store = Arc::new(ReplyStore::open(folder).unwrap());
        let (base_url, governor) = (place.to_owned(), Arc::clone(governor));
        let asking = Asking::new(identity, store, OnRejected::Keep, move || {
            let limits = Limits { attempts: 3, ..Limits::default() };
            let (teacher, base_url) = ("fake".to_owned(), base_url.parse().unwrap());
            let address = Address { teacher, base_url, key_variable: None, auth: Auth::Bearer };
            let api = ChatApi { model: "fake-1".to_owned(), dialect: Dialect::Strict };
            let endpoint = Endpoint::new(address, None, &limits)?;
            Ok(Client::new(endpoint, Arc::clone(&governor), Arc::new(api), &limits))
        });
        Self { asking, place: place.to_owned() }
    }

    async fn hand_in(&self, prompts: u64) -> Result<(), Failure> {
        let options = BatchOptions { max_requests: 50, max_megabytes: 1, at_once: 2, poll_seconds: 0.01 };
        let cancel = Cancel::default();
        let batches = Batches { options: &options, place: &self.place, cancel: &cancel, tell: &|_| {} };
        self.asking.in_batches(&batches, || Ok(Box::new((0..prompts).map(|number| Ok(question(number)))))).await
    }

    /// The whole of a stage: every reply, in order.
    async fn live(&self, prompts: u64) -> Result<Vec<Reply>, Failure> {
        self.hand_in(prompts).await?;
        let mut replies = Vec::new();
        let questions = (0..prompts).map(|number| Ok(question(number)));
        let take = |_: &Question, reply, _| {
            replies.push(reply);
            Ok(())
        };
        self.asking.all(questions, &Cancel::default(), take).await?;
        Ok(replies)
    }

    fn paid(&self) -> Paid {
        self.asking.paid()
    }
}

fn right(replies: &[Reply], prompts: u64) {
    let texts: Vec<&str> = replies.iter().map(|reply| reply.text.as_str()).collect();
    let wanted: Vec<String> = (0..prompts).map(|number| format!(" to {number}")).collect();
    assert_eq!(texts, wanted, "the assistant's own words are no part of the reply");
    assert!(replies.iter().all(|reply| reply.tokens.as_ref().is_some_and(|tokens| tokens.len() == 1)));
}

/// `from 7` is answered with `from 7 to 7`.
fn counting() -> BatchServer {
    BatchServer::new(|prompt, times| match (prompt, times) {
        ("from 3", 1) => Line::Expired,
        _ => Line::Answer(format!("{prompt} to {}", prompt.rsplit(' ').next().unwrap())),
    })
}

/// Ends a life when the server gets a request that `dies` picks, `after` the server has done its part or before; then lives again.
/// Gives the server.
async fn killed(
    dies: impl Fn(&Asked) -> bool + Send + Sync + 'static,
    after: bool,
) -> (Arc<BatchServer>, tempfile::TempDir) {
    let (batches, reached, folder) = (Arc::new(counting()), Arc::new(Notify::new()), tempfile::tempdir().unwrap());
    let (script, signal) = (Arc::clone(&batches), Arc::clone(&reached));
    let hangs = std::sync::atomic::AtomicBool::new(true);
    let server = FakeTeacher::start(move |asked| {
        if dies(asked) && hangs.swap(false, std::sync::atomic::Ordering::Relaxed) {
            let act = if after { script.act(asked) } else { Act::Reset };
            signal.notify_one();
            return act.after(Duration::from_secs(3600));
        }
        script.act(asked)
    })
    .await
    .unwrap();
    let first = Life::new(folder.path(), &server.base_url());
    tokio::select! {
        ended = first.live(PROMPTS) => panic!("it was to be killed: {ended:?}"),
        () = reached.notified() => {}
    }
    drop(first);
    let second = Life::new(folder.path(), &server.base_url());
    right(&second.live(PROMPTS).await.unwrap(), PROMPTS);
    assert_eq!((batches.paid(), batches.paid_twice()), (PROMPTS, vec![]));
    let (asked, third) = (server.asked(), Life::new(folder.path(), &server.base_url()));
    right(&third.live(PROMPTS).await.unwrap(), PROMPTS);
    assert_eq!((server.asked(), third.paid()), (asked, Paid::default()), "the next run pays nothing");
    let left: Vec<_> = fs_err::read_dir(folder.path().join("batches")).unwrap().collect();
    assert_eq!(left.len(), 1, "only the lock is left: {left:?}");
    (batches, folder)
}

fn is(asked: &Asked, method: &str, path: &str) -> bool {
    asked.method == method && asked.path.split('?').next() == Some(path)
}

#[tokio::test]
async fn killed_while_the_file_goes_up() {
    let (batches, _folder) = killed(|asked| is(asked, "POST", "/v1/files"), true).await;
    // Nobody knows of the first one, and it cost nothing; the last is of the request that expired.
    assert_eq!((batches.uploads(), batches.batches()), (3, vec![40, 1]));
}

#[tokio::test]
async fn killed_between_upload_and_batch() {
    let (batches, _folder) = killed(|asked| is(asked, "POST", "/v1/batches"), false).await;
    assert_eq!((batches.uploads(), batches.batches()), (2, vec![40, 1]), "the file is not sent again");
}

#[tokio::test]
async fn killed_when_the_batch_was_made_and_its_id_not_known_yet() {
    let (batches, _folder) = killed(|asked| is(asked, "POST", "/v1/batches"), true).await;
    assert_eq!((batches.uploads(), batches.batches()), (2, vec![40, 1]), "it is found in the list");
}

#[tokio::test]
async fn killed_while_it_is_waited_for() {
    let (batches, _folder) = killed(|asked| is(asked, "GET", "/v1/batches/batch_0"), true).await;
    assert_eq!((batches.uploads(), batches.batches()), (2, vec![40, 1]));
}

#[tokio::test]
async fn killed_while_it_is_fetched() {
    for file in ["/v1/files/file-out-0/content", "/v1/files/file-err-0/content"] {
        let (batches, _folder) = killed(move |asked| is(asked, "GET", file), true).await;
        assert_eq!((batches.uploads(), batches.batches()), (2, vec![40, 1]));
    }
}

#[tokio::test]
async fn a_file_that_breaks_off_is_brought_again() {
    let batches = Arc::new(counting());
    let (script, times) = (Arc::clone(&batches), std::sync::atomic::AtomicU64::new(0));
    let server = FakeTeacher::start(move |asked| match script.act(asked) {
        Act::Answer { body, .. }
            if is(asked, "GET", "/v1/files/file-out-0/content")
                && times.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 0 =>
        {
            Act::HalfBody(body)
        }
        act => act,
    })
    .await
    .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let life = Life::new(folder.path(), &server.base_url());
    right(&life.live(PROMPTS).await.unwrap(), PROMPTS);
    assert_eq!((batches.paid(), life.paid().requests), (PROMPTS, PROMPTS));
    assert_eq!(ReplyStore::open(folder.path()).unwrap().len() as u64, PROMPTS, "nothing is stored twice");
}

#[tokio::test]
async fn an_answer_to_making_a_batch_that_gets_lost_makes_no_second_one() {
    let batches = Arc::new(counting());
    let (script, times) = (Arc::clone(&batches), std::sync::atomic::AtomicU64::new(0));
    let server = FakeTeacher::start(move |asked| {
        let act = script.act(asked);
        let first = is(asked, "POST", "/v1/batches") && times.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 0;
        if first { Act::Reset } else { act }
    })
    .await
    .unwrap();
    let folder = tempfile::tempdir().unwrap();
    right(&Life::new(folder.path(), &server.base_url()).live(PROMPTS).await.unwrap(), PROMPTS);
    assert_eq!((batches.paid_twice(), batches.batches()), (vec![], vec![40, 1]));
}

#[tokio::test]
async fn two_processes_hand_everything_in_once() {
    let batches = Arc::new(counting());
    let script = Arc::clone(&batches);
    let server = FakeTeacher::start(move |asked| script.act(asked).after(Duration::from_millis(20))).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (Life::new(folder.path(), &server.base_url()), Life::new(folder.path(), &server.base_url()));
    // Overlapping, and neither holds all of the other's.
    let (first, second) = tokio::join!(one.live(120), two.live(150));
    right(&first.unwrap(), 120);
    right(&second.unwrap(), 150);
    assert_eq!((batches.paid(), batches.paid_twice()), (150, vec![]));
    assert_eq!(one.paid().requests + two.paid().requests, 150);
    assert!(one.paid().requests > 0 && two.paid().requests > 0, "{:?} {:?}", one.paid(), two.paid());
}

#[tokio::test]
async fn the_other_process_dies_and_its_batch_is_taken_over() {
    let batches = Arc::new(counting());
    let (script, reached) = (Arc::clone(&batches), Arc::new(Notify::new()));
    let signal = Arc::clone(&reached);
    let server = FakeTeacher::start(move |asked| {
        let act = script.act(asked);
        if is(asked, "GET", "/v1/batches/batch_0") {
            signal.notify_one();
            return act.after(Duration::from_millis(50));
        }
        act
    })
    .await
    .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let one = Life::new(folder.path(), &server.base_url());
    let two = Life::new(folder.path(), &server.base_url());
    let dying = async {
        tokio::select! {
            ended = one.live(PROMPTS) => panic!("it was to be killed: {ended:?}"),
            () = async { reached.notified().await; tokio::time::sleep(Duration::from_millis(20)).await } => {}
        }
    };
    let surviving = async {
        tokio::time::sleep(Duration::from_millis(5)).await;
        two.live(PROMPTS).await
    };
    let ((), survived) = tokio::join!(dying, surviving);
    right(&survived.unwrap(), PROMPTS);
    assert_eq!((batches.paid(), batches.paid_twice()), (PROMPTS, vec![]));
    assert_eq!(two.paid().requests, PROMPTS);
}

#[tokio::test]
async fn a_batch_that_the_server_does_not_know_is_not_paid_again_in_silence() {
    let batches = Arc::new(counting());
    let script = Arc::clone(&batches);
    let server = FakeTeacher::start(move |asked| match is(asked, "GET", "/v1/batches/batch_0") {
        true => Act::status(404, "{}"),
        false => script.act(asked),
    })
    .await
    .unwrap();
    let folder = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let failure = Life::new(folder.path(), &server.base_url()).live(PROMPTS).await.unwrap_err();
        assert!(failure.message.ends_with("does not know the batch batch_0, which was handed in before"), "{failure}");
        assert!(failure.hint.unwrap().contains("pay for its 40 requests again, remove "));
    }
    assert_eq!(batches.batches(), [40]);
    let elsewhere = Journal::of(folder.path(), "http://127.0.0.1:1/v1");
    assert_eq!(elsewhere.under_way().unwrap().len(), 0, "another server has nothing to do with it");
    assert_eq!(Journal::of(folder.path(), &format!("{}/", server.base_url())).under_way().unwrap().len(), 40);
}

#[tokio::test]
async fn a_journal_that_is_damaged_is_said_to_be() {
    let batches = Arc::new(counting());
    let script = Arc::clone(&batches);
    let server = FakeTeacher::start(move |asked| match is(asked, "GET", "/v1/batches/batch_0") {
        true => Act::status(401, "{}"),
        false => script.act(asked),
    })
    .await
    .unwrap();
    let folder = tempfile::tempdir().unwrap();
    Life::new(folder.path(), &server.base_url()).live(PROMPTS).await.unwrap_err();
    let files = fs_err::read_dir(folder.path().join("batches")).unwrap().map(|file| file.unwrap().path());
    let files: Vec<_> = files.collect();
    let file = |ending: &str| files.iter().find(|path| path.to_str().unwrap().ends_with(ending)).unwrap();
    let stand = fs_err::read(file(".json")).unwrap();
    for (path, text) in [(file(".json"), "{\"place"), (file(".requests.jsonl"), "{\"custom_id\":\"x\"}\n")] {
        fs_err::write(path, text).unwrap();
        let failure = Life::new(folder.path(), &server.base_url()).live(PROMPTS).await.unwrap_err();
        assert!(failure.message.contains(" is not as it was written"), "{failure}");
        fs_err::write(file(".json"), &stand).unwrap();
    }
    assert_eq!(batches.batches(), [40]);
}

#[tokio::test]
async fn a_batch_that_is_not_begun_sets_nothing_aside_for_ever() {
    let server = FakeTeacher::start(|_| Act::status(500, "{}")).await.unwrap();
    let governor = Arc::new(Governor::new(&Limits { budget_tokens: Some(1_000), ..Limits::default() }));
    let folder = tempfile::tempdir().unwrap();
    let life = Life::within(folder.path(), &server.base_url(), &governor);
    let options = BatchOptions { max_requests: 50, max_megabytes: 1, at_once: 2, poll_seconds: 0.01 };
    let (place, cancel) = (server.base_url(), Cancel::default());
    let batches = Batches { options: &options, place: &place, cancel: &cancel, tell: &|_| {} };
    let questions = |number| if number < 3 { Ok(question(number)) } else { Err(Failure::input("no such prompt")) };
    let ended = life.asking.in_batches(&batches, || Ok(Box::new((0..4).map(questions)))).await;
    assert_eq!((ended.unwrap_err().message.as_str(), server.asked()), ("no such prompt", 0));
    // Another stage of the same run: it would wait for what is on its way.
    let all = Estimate { prompt: 1_000, completion: 0 };
    let entered = tokio::time::timeout(Duration::from_secs(5), governor.enter(all)).await;
    assert!(entered.expect("nothing is on its way").is_ok());
}
