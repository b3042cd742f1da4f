//! Requests that are asked at the same time go to the server in one body, where its API takes several. Each has a reply of its own
//! all the same, under its own key: which requests went together is forgotten.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use stillhouse_stage::Failure;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::{At, Client, Unanswered};
use crate::reply::Reply;
use crate::request::Request;

/// How long a request waits for others to go with it: much less than any server takes.
const PATIENCE: Duration = Duration::from_millis(20);

/// Requests that wait for each other.
#[derive(Debug, Default)]
pub(super) struct Gathering(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Waiting>,
    /// Requests that came so far: their names.
    came: u64,
}

#[derive(Debug)]
struct Waiting {
    number: u64,
    request: Request,
    reply: oneshot::Sender<Result<Reply, Unanswered>>,
}

impl Gathering {
    /// Asks a request, together with others as soon as there are as many as the API takes, or nobody came for a while.
    pub(super) async fn ask(
        &self,
        client: &Client,
        request: &Request,
        closing: &CancellationToken,
    ) -> Result<Reply, Unanswered> {
        let (sender, mut reply) = oneshot::channel();
        let (number, full) = self.join(request, sender, client.api().together());
        if let Some(full) = full {
            send(client, full, closing).await;
        } else {
            tokio::select! {
                biased;
                reply = &mut reply => return reply.unwrap_or_else(|_| Err(Failure::interrupted().into())),
                () = tokio::time::sleep(PATIENCE) => {}
            }
            if let Some(all) = self.leave_with_all(number) {
                send(client, all, closing).await;
            }
        }
        // Whoever sends it for us may be called off.
        reply.await.unwrap_or_else(|_| Err(Failure::interrupted().into()))
    }

    /// Waits with the others; gives all of them where they are as many as may go together.
    fn join(
        &self,
        request: &Request,
        reply: oneshot::Sender<Result<Reply, Unanswered>>,
        most: usize,
    ) -> (u64, Option<Vec<Waiting>>) {
        let mut state = self.lock();
        let number = state.came;
        state.came += 1;
        state.waiting.push_back(Waiting { number, request: request.clone(), reply });
        let full = state.waiting.len() >= most;
        (number, full.then(|| state.waiting.drain(..).collect()))
    }

    /// All that wait, if this one is still among them.
    fn leave_with_all(&self, number: u64) -> Option<Vec<Waiting>> {
        let mut state = self.lock();
        let there = state.waiting.iter().any(|waiting| waiting.number == number);
        there.then(|| state.waiting.drain(..).collect())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends requests in one body and hands each its reply. A body that the server refuses, or never answers, is sent again in halves, until
/// it is known which request it is. One that alone is never answered while others are counts as refused, whatever the reason; where
/// none is answered it is the server that fails, with what was first said of the whole body.
async fn send(client: &Client, all: Vec<Waiting>, closing: &CancellationToken) {
    let (mut pieces, mut answered) = (vec![all], false);
    let (mut first, mut never): (Option<Unanswered>, Vec<(Waiting, Unanswered)>) = (None, Vec::new());
    while let Some(mut piece) = pieces.pop() {
        let requests: Vec<Request> = piece.iter().map(|waiting| waiting.request.clone()).collect();
        let unanswered = match client.ask_together(&requests, closing).await {
            Ok(replies) => {
                answered = true;
                for (waiting, reply) in piece.into_iter().zip(replies) {
                    // Who does not wait any more has been called off.
                    _ = waiting.reply.send(Ok(reply));
                }
                continue;
            }
            Err(unanswered) => unanswered,
        };
        let gave_up = matches!(unanswered.fault, At::Request(_));
        if gave_up {
            first.get_or_insert_with(|| unanswered.clone());
        }
        let of_one = matches!(unanswered.fault, At::Rejected(_)) || gave_up;
        if of_one && piece.len() > 1 {
            let second = piece.split_off(piece.len() / 2);
            pieces.extend([second, piece]);
        } else if gave_up {
            let hopeless = !answered && !never.is_empty();
            never.extend(piece.into_iter().map(|waiting| (waiting, unanswered.clone())));
            if hopeless {
                break;
            }
        } else {
            let others = if of_one { Vec::new() } else { std::mem::take(&mut pieces) };
            for waiting in piece.into_iter().chain(others.into_iter().flatten()) {
                _ = waiting.reply.send(Err(unanswered.clone()));
            }
        }
    }
    for (waiting, mut unanswered) in never {
        if answered {
            if let At::Request(what) = unanswered.fault {
                unanswered.fault = At::Rejected(what);
            }
        } else if let Some(first) = &first {
            unanswered = first.clone();
        }
        _ = waiting.reply.send(Err(unanswered));
    }
    for waiting in pieces.into_iter().flatten() {
        let failure = first.clone().unwrap_or_else(|| Failure::interrupted().into());
        _ = waiting.reply.send(Err(failure));
    }
}
