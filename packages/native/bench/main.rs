//! What test/bench measures the SDK against, built from the addon's own dependencies: the engine's crate with nothing over
//! it, and a relay without a guest that is quicker than any of its clients.
//!
//! `bench floor <home>` takes requests as lines of JSON; `bench relay <socket>…` listens until it is ended.

mod floor;
mod relay;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        Some("floor") => floor::serve(&arguments.next().ok_or("floor: no home was given")?).await,
        Some("relay") => relay::listen(&arguments.collect::<Vec<_>>()).await,
        _ => Err("usage: bench floor <home> | bench relay <socket>...".into()),
    }
}
