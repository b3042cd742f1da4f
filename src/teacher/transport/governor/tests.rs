//! Passes: what they hold back, what they give back, and to whom.

use super::*;
use crate::reply::Usage;

const ONE: Estimate = Estimate { prompt: 1, completion: 1 };
const PRICES: Prices = Prices { input: 1e6, output: 1e6 };

fn used_up(cap: f64) -> UsedUp {
    UsedUp { cap: Cap::Usd(cap, PRICES), spent: cap }
}

fn limits(budget_usd: f64) -> Limits {
    Limits { concurrency: 4, budget_usd: Some(budget_usd), prices: Some(PRICES), ..Limits::default() }
}

async fn spend(limits: &Limits) -> Result<(), UsedUp> {
    // Gotten anew every time, as every stage does, and dropped in between.
    let governor = Governor::shared("http://here/v1 spends", limits);
    let mut pass = governor.enter(ONE).await?;
    pass.send();
    pass.settle(Cost::Counted(Usage { prompt: 1, completion: 1 }));
    Ok(())
}

#[tokio::test]
async fn one_stage_after_another_spends_of_one_budget_whatever_the_other_limits() {
    let (four, eight) = (limits(4.0), Limits { concurrency: 1, ..limits(8.0) });
    spend(&four).await.unwrap();
    spend(&four).await.unwrap();
    assert_eq!(spend(&four).await, Err(used_up(4.0)));
    spend(&eight).await.unwrap();
    spend(&eight).await.unwrap();
    assert_eq!(spend(&eight).await, Err(used_up(8.0)));
    assert!(Governor::shared("http://here/v1 other", &four).enter(ONE).await.is_ok(), "another model");
}

#[tokio::test(start_paused = true)]
async fn input_and_output_have_rates_of_their_own() {
    let limits =
        Limits { output_tokens_per_minute: Some(60), input_tokens_per_minute: Some(6000), ..Limits::default() };
    let governor = Arc::new(Governor::new(&limits));
    let start = Instant::now();
    for _ in 0..3 {
        let mut pass = governor.enter(Estimate { prompt: 100, completion: 2 }).await.unwrap();
        pass.send();
        pass.settle(Cost::Counted(Usage { prompt: 100, completion: 2 }));
    }
    // Two tokens a second and a bucket of one: the first passes on credit, the others wait two seconds each.
    let waited = start.elapsed().as_secs_f64();
    assert!((1.9..4.5).contains(&waited), "{waited}");
}

#[tokio::test(start_paused = true)]
async fn who_is_called_off_gives_back_of_the_rates_what_was_taken_and_no_more() {
    let limits = Limits {
        requests_per_minute: Some(6000),
        tokens_per_minute: Some(6000),
        output_tokens_per_minute: Some(60_000),
        ..Limits::default()
    };
    let governor = Arc::new(Governor::new(&limits));
    let large = Estimate { prompt: 900, completion: 100 };
    let mut first = governor.enter(large).await.unwrap();
    first.send();
    // A bucket of a hundred is nine hundred in debt, so this one stands in line for tokens.
    let second = tokio::time::timeout(Duration::from_secs(1), governor.enter(large)).await;
    assert!(second.is_err());
    let start = Instant::now();
    let third = governor.enter(Estimate { prompt: 100, completion: 0 }).await.unwrap();
    assert!((8.5..9.5).contains(&start.elapsed().as_secs_f64()), "{:?}", start.elapsed());
    drop(third);
    let start = Instant::now();
    drop(governor.enter(Estimate { prompt: 100, completion: 0 }).await.unwrap());
    assert_eq!(start.elapsed(), Duration::ZERO, "what was taken is given back");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_not_sent_leaves_its_place_to_others() {
    let governor = Arc::new(Governor::new(&Limits { requests_per_minute: Some(6), ..Limits::default() }));
    let start = Instant::now();
    for _ in 0..3 {
        drop(governor.enter(ONE).await.unwrap());
    }
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn what_the_server_has_left_holds_requests_back_before_it_refuses_them() {
    let governor = Arc::new(Governor::new(&Limits::default()));
    let allowance = |remaining: f64| Allowance {
        what: Allowed::Requests,
        limit: Some(60.0),
        remaining,
        reset: Duration::from_secs(30),
    };
    governor.heed(&[allowance(40.0)], ONE, Duration::from_secs(600)).unwrap();
    assert!(governor.held().is_none(), "there is enough left");
    governor.heed(&[allowance(0.0)], ONE, Duration::from_secs(600)).unwrap();
    let start = Instant::now();
    drop(governor.enter(ONE).await.unwrap());
    // 60 come back in 30 seconds, so one in half a second.
    assert!((0.4..0.7).contains(&start.elapsed().as_secs_f64()), "{:?}", start.elapsed());
    let passes = [governor.enter(ONE).await.unwrap(), governor.enter(ONE).await.unwrap()];
    let passes = passes.map(|mut pass| {
        pass.send();
        pass
    });
    governor.heed(&[allowance(0.0)], ONE, Duration::from_millis(800)).unwrap();
    let start = Instant::now();
    drop(governor.enter(ONE).await.unwrap());
    assert!((0.7..0.9).contains(&start.elapsed().as_secs_f64()), "never longer than is waited at most");
    drop(passes);
}

#[tokio::test]
async fn a_pass_that_is_dropped_costs_nothing_before_it_is_sent_and_everything_after() {
    let governor = Arc::new(Governor::new(&limits(2.0)));
    drop(governor.enter(ONE).await.unwrap());
    let mut pass = governor.enter(ONE).await.unwrap();
    pass.send();
    drop(pass);
    assert_eq!(governor.enter(ONE).await.unwrap_err(), used_up(2.0));
}
