//! From the command line to a monitor that serves, and to its end.
//!
//! What is wrong with the configuration is said before anything is served; what is only away is waited for by those who
//! ask it. The address is open before the first question to a service is answered.

use crate::{
    Monitor, Settings,
    cli::Cli,
    management::{HttpManagement, Management, ManagementError, vhost_of},
    output::{self, discover},
    seams::{LateBroker, Seams},
    watch::poll,
    web::{self, guard::Guard},
};
use std::{net::SocketAddr, path::Path, sync::Arc};
use tokio::{net::TcpListener, task::JoinSet};
use trawl_common::{
    fleet::redis::RedisFleet,
    ledger::redis::RedisLedger,
    location::{Location, LocationError},
    shutdown::Shutdown,
    storage::Stores,
};

/// A shorter token can be guessed.
const MIN_TOKEN_CHARS: usize = 16;

/// A longer one is none.
const MAX_TOKEN_BYTES: u64 = 4096;

/// What is wrong with the command line.
#[derive(Debug, thiserror::Error)]
pub enum UsageError {
    /// The token's file.
    #[error("the token file `{path}` cannot be read: {source}")]
    TokenFile {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The token.
    #[error(
        "the token has fewer than {MIN_TOKEN_CHARS} characters: `openssl rand -hex 32 > token.txt` makes a good one"
    )]
    ShortToken,
    /// A place of `--outputs`.
    #[error("--outputs `{text}` names no place")]
    Outputs {
        /// As given.
        text: String,
        /// Why.
        source: LocationError,
    },
    /// The management API's URL.
    #[error(transparent)]
    Management(#[from] ManagementError),
    /// The address.
    #[error("nothing can be served on {listen}: choose another --listen")]
    Listen {
        /// The address.
        listen: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
}

/// Serves until told to stop.
///
/// # Errors
/// If the configuration is of no use or the address cannot be had.
pub async fn serve(cli: Cli, shutdown: Shutdown) -> anyhow::Result<()> {
    let token = token(&cli).await?;
    let seams = seams(&cli).await?;
    let below = cli.outputs.iter().map(|text| below(text)).collect::<Result<_, _>>()?;
    let listen = |source| UsageError::Listen { listen: cli.listen, source };
    let listener = TcpListener::bind(cli.listen).await.map_err(listen)?;
    let address = listener.local_addr().map_err(listen)?;
    let settings = Settings {
        gallery_rows: usize::try_from(cli.gallery_rows).unwrap_or(usize::MAX),
        max_streams: usize::from(cli.max_streams),
        below,
        guard: Guard::new(address, &cli.allow_host, cli.https),
        token,
    };
    let changes = if settings.token.is_some() { "with the token" } else { "none: no token was given" };
    let monitor = Monitor::new(seams, settings, shutdown.draining.clone());
    tracing::info!(http.address = %address, changes, "monitor ready at http://{address}");
    let mut tasks = JoinSet::new();
    tasks.spawn(poll::run(monitor.clone()));
    tasks.spawn(output::run(monitor.clone()));
    tasks.spawn(discover::run(monitor.clone()));
    web::server::run(listener, monitor).await;
    // They end by the same word; a question that is under way is not waited for.
    tasks.shutdown().await;
    tracing::info!("stopped");
    Ok(())
}

async fn seams(cli: &Cli) -> anyhow::Result<Seams> {
    let (amqp, redis) = (cli.services.amqp().await?, cli.services.redis().await?);
    let management = cli
        .services
        .other(cli.management_url.as_deref(), cli.management_url_file.as_deref(), "TRAWL_MANAGEMENT_URL_FILE")
        .await?;
    let management = match management {
        Some(place) => {
            let api = HttpManagement::new(&place, &vhost_of(&amqp.url)).map_err(UsageError::from)?;
            Some(Arc::new(api) as Arc<dyn Management>)
        }
        None => None,
    };
    let ledger = RedisLedger::lazily(&redis.url, &redis.tls)?;
    Ok(Seams {
        fleet: Arc::new(RedisFleet::beside(&ledger)),
        ledger: Arc::new(ledger),
        broker: LateBroker::at(amqp),
        management,
        stores: Stores::new(),
    })
}

async fn token(cli: &Cli) -> Result<Option<String>, UsageError> {
    let token = match (&cli.token_file, &cli.token) {
        (Some(path), _) => {
            let unreadable = |source| UsageError::TokenFile { path: path.display().to_string(), source };
            let size = tokio::fs::metadata(path).await.map_err(unreadable)?.len();
            if size > MAX_TOKEN_BYTES {
                return Err(unreadable(std::io::Error::other("it is too large for a token")));
            }
            Some(tokio::fs::read_to_string(path).await.map_err(unreadable)?.trim().to_owned())
        }
        (None, Some(token)) => Some(token.trim().to_owned()),
        (None, None) => None,
    };
    match token {
        Some(token) if token.chars().count() < MIN_TOKEN_CHARS => Err(UsageError::ShortToken),
        token => Ok(token),
    }
}

fn below(text: &str) -> Result<Location, UsageError> {
    let unusable = |source| UsageError::Outputs { text: text.to_owned(), source };
    let here = std::env::current_dir().unwrap_or_else(|_| Path::new("/").to_owned());
    Ok(Location::parse(text, &here).map_err(unusable)?.without_trailing_slash())
}
