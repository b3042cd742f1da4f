mod bench;
mod checks;
mod local;
mod server;
