//! How a request gets to a server and back: one exchange, what to try again, and how much at once.

pub mod allowance;
pub mod breaker;
pub mod budget;
pub mod endpoint;
pub mod governor;
pub mod meter;
pub mod pace;
pub mod rate;
pub mod retry;
pub mod waiting;

pub use allowance::Allowance;
pub use breaker::Breaker;
pub use budget::{Budget, Cap, Cost, Estimate, Ledger, Prices};
pub use endpoint::Endpoint;
pub use governor::{Governor, Limits};
pub use meter::{Meter, Spent};
pub use retry::Fault;
pub use waiting::Waiting;
