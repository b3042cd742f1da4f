mod bench;
mod checks;
mod local;
mod outcomes;
mod server;
