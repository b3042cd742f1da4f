//! Caps, what is set aside for requests on their way, and what replies take beyond their limit.

use std::time::Duration;

use super::*;

const PRICES: Prices = Prices { input: 1e6, output: 1e6 };
const FIVE: Estimate = Estimate { prompt: 2, completion: 3 };

fn usd(cap: f64) -> Vec<Cap> {
    vec![Cap::Usd(cap, PRICES)]
}

fn used_up(cap: f64, spent: f64) -> UsedUp {
    UsedUp { cap: Cap::Usd(cap, PRICES), spent }
}

fn counted(prompt: u32, completion: u32) -> Cost {
    Cost::Counted(Usage { prompt, completion })
}

async fn spend(budget: &Budget) -> Result<(), UsedUp> {
    budget.reserve(FIVE).await.map(|reserved| _ = reserved.settle(counted(2, 3), None))
}

#[tokio::test]
async fn the_cap_is_never_overrun() {
    let budget = Budget::new(usd(12.0), Arc::default());
    spend(&budget).await.unwrap();
    spend(&budget).await.unwrap();
    assert_eq!(spend(&budget).await, Err(used_up(12.0, 10.0)));
}

#[tokio::test]
async fn what_is_set_aside_is_free_again_when_nobody_settles_it() {
    let budget = Budget::new(usd(8.0), Arc::default());
    let (first, sent) = (budget.reserve(FIVE).await.unwrap(), budget.reserve_sent(FIVE));
    assert_eq!(budget.claims(Cap::Usd(8.0, PRICES), FIVE).on_their_way, 10.0);
    let waiting = tokio::time::timeout(Duration::from_secs(5), budget.reserve(FIVE));
    let (waited, ()) = tokio::join!(waiting, async {
        tokio::task::yield_now().await;
        drop((first, sent));
    });
    let waited = waited.expect("it waits for them no longer than they live");
    assert_eq!(waited.unwrap().estimate(), FIVE);
    assert_eq!(budget.claims(Cap::Usd(8.0, PRICES), FIVE).on_their_way, 0.0);
    assert_eq!(budget.claims(Cap::Requests(9), FIVE).spent, 0.0);
}

#[tokio::test]
async fn what_is_billed_beyond_the_limit_is_expected_from_then_on() {
    let budget = Budget::new(vec![Cap::Tokens(100)], Arc::default());
    let first = budget.reserve(FIVE).await.unwrap();
    first.settle(counted(2, 30), None);
    let second = budget.reserve(FIVE).await.unwrap();
    assert_eq!(second.estimate(), Estimate { prompt: 2, completion: 30 });
    second.settle(counted(2, 3), None);
    let _third = budget.reserve(FIVE).await.unwrap();
    let fourth = budget.try_reserve(FIVE).unwrap();
    assert!(fourth.is_none(), "37 spent, 32 on their way, and 32 have no room beside them");
}

#[tokio::test]
async fn what_a_model_thinks_is_added_to_a_limit_whatever_that_is() {
    let ledger = Arc::default();
    let (judge, answers) =
        (Budget::new(Vec::new(), Arc::clone(&ledger)), Budget::new(vec![Cap::Tokens(10_000)], ledger));
    let short = judge.reserve(Estimate { prompt: 2, completion: 16 }).await.unwrap();
    short.settle(counted(2, 1_616), None);
    let long = answers.reserve(Estimate { prompt: 2, completion: 4_096 }).await.unwrap();
    assert_eq!(long.estimate(), Estimate { prompt: 2, completion: 4_096 + 1_600 });
}

#[tokio::test]
async fn what_lays_claim_to_a_cap_is_told_in_its_measure() {
    let budget = Budget::new(usd(100.0), Arc::default());
    let first = budget.reserve(FIVE).await.unwrap();
    let _second = budget.reserve(FIVE).await.unwrap();
    first.settle(counted(2, 30), None);
    let told = Claims { spent: 32.0, on_their_way: 5.0, next: 32.0, beyond_limit: true };
    assert_eq!(budget.claims(Cap::Usd(100.0, PRICES), FIVE), told);
    let requests = Claims { spent: 1.0, on_their_way: 1.0, next: 1.0, beyond_limit: true };
    assert_eq!(budget.claims(Cap::Requests(9), FIVE), requests);
}

#[tokio::test]
async fn a_request_waits_for_those_on_their_way_before_it_gives_up() {
    let budget = Budget::new(usd(8.0), Arc::default());
    let first = budget.reserve(FIVE).await.unwrap();
    let (waited, ()) = tokio::join!(budget.reserve(FIVE), async {
        tokio::task::yield_now().await;
        first.settle(counted(1, 1), None);
    });
    let second = waited.unwrap();
    assert_eq!(second.estimate(), FIVE, "the first cost two of its five");
    second.settle(Cost::Nothing, None);
    assert!(budget.reserve(FIVE).await.is_ok(), "what was charged with nothing costs nothing");
}

#[tokio::test]
async fn tables_with_one_ledger_each_stop_at_their_own_cap_on_the_same_sum() {
    let ledger = Arc::default();
    let table = |caps| Budget::new(caps, Arc::clone(&ledger));
    let (free, small, large) = (table(Vec::new()), table(usd(12.0)), table(usd(20.0)));
    spend(&free).await.unwrap();
    spend(&small).await.unwrap();
    assert_eq!(spend(&small).await, Err(used_up(12.0, 10.0)));
    let on_its_way = large.reserve(FIVE).await.unwrap();
    assert_eq!(on_its_way.estimate(), FIVE, "the same ten of twenty");
    let medium = table(usd(16.0));
    let (waited, ()) = tokio::join!(medium.reserve(FIVE), async {
        tokio::task::yield_now().await;
        on_its_way.settle(counted(1, 0), None);
    });
    assert!(waited.is_ok(), "one waits for what the other has on its way");
    assert!(spend(&free).await.is_ok(), "without a cap there is always room");
}

#[tokio::test]
async fn tokens_and_requests_have_caps_of_their_own() {
    let tokens = Budget::new(vec![Cap::Tokens(12), Cap::Requests(9)], Arc::default());
    for _ in 0..2 {
        spend(&tokens).await.unwrap();
    }
    assert_eq!(spend(&tokens).await, Err(UsedUp { cap: Cap::Tokens(12), spent: 10.0 }));
    let requests = Budget::new(vec![Cap::Tokens(1000), Cap::Requests(2)], Arc::default());
    drop(requests.reserve(FIVE).await.unwrap());
    for _ in 0..2 {
        spend(&requests).await.unwrap();
    }
    let refused = spend(&requests).await;
    assert_eq!(refused, Err(UsedUp { cap: Cap::Requests(2), spent: 2.0 }), "one was never sent");
}

#[test]
fn what_nobody_counted_is_charged_in_full() {
    let used = Usage { prompt: 1, completion: 2 };
    assert_eq!(Cost::Counted(used).tokens(FIVE), Estimate { prompt: 1, completion: 2 });
    assert_eq!(Cost::Counted(Usage::default()).tokens(FIVE), FIVE);
    assert_eq!(Cost::Unknown.tokens(FIVE), FIVE);
    assert_eq!(Cost::Nothing.tokens(FIVE), Estimate::default());
}
