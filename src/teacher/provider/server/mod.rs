//! Teachers behind servers: what all of them share, whichever API they speak.

mod client;
mod forecast;
mod gathering;
mod run;
mod session;
mod settings;
mod spending;
mod telling;

#[cfg(test)]
mod tests;

pub(crate) use client::spread;
pub use client::{At, Client, Unanswered, estimate};
pub use forecast::{forecast, forecast_requests};
pub use run::run;
pub use session::open;
pub use settings::{LimitsConfig, PricesConfig, Server, UsageConfig, check};
