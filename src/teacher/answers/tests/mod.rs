pub mod bench;
mod checks;
mod forecast;
mod limits;
mod local;
mod outcomes;
mod providers;
mod server;
mod signals;
