//! The command line of `trawl-monitor`: only parsing and what can be refused before anything connects.
//!
//! Flags go before the environment. Values from the environment are never shown: they may be passwords.

use clap::{Parser, value_parser};
use std::{net::SocketAddr, path::PathBuf};
use trawl_common::{config::ServiceArgs, telemetry::LogFormat};

const EXAMPLES: &str = "\
Examples:
  trawl-monitor                                            http://127.0.0.1:8265, read only
  trawl-monitor --token-file token.txt                     the same, and who has the token may pause, cancel, retry
  trawl-monitor --listen 0.0.0.0:8265 --allow-host trawl.example --token-file token.txt
  trawl-monitor --outputs s3://bucket/labels               also what Redis has forgotten, from the bucket
  curl -H \"Authorization: Bearer $TOKEN\" -X POST http://127.0.0.1:8265/api/jobs/JOB/cancel

Services are named by TRAWL_AMQP_URL, TRAWL_REDIS_URL and TRAWL_MANAGEMENT_URL, buckets by the AWS_* variables.
Any of them may be away: the pages say so and show what is known.
Exit codes: 0 done, 1 failed, 2 usage or configuration, 130 and 143 signals.";

/// Jobs, results, workers and queues of trawl in a browser, and for Prometheus
#[derive(Parser)]
#[command(name = "trawl-monitor", version, about, before_help = EXAMPLES)]
pub struct Cli {
    /// Address to serve on; port 0 takes a free one
    #[arg(long, env = "TRAWL_MONITOR_LISTEN", default_value = "127.0.0.1:8265", value_name = "ADDR")]
    pub listen: SocketAddr,

    /// Name by which browsers may ask for the pages, besides this machine's loopback names (repeatable)
    #[arg(long, env = "TRAWL_MONITOR_ALLOW_HOST", value_delimiter = ',', value_name = "HOST")]
    pub allow_host: Vec<String>,

    /// Say that the pages are reached over https, through a proxy: cookies are then for https alone
    #[arg(long, env = "TRAWL_MONITOR_HTTPS", value_parser = clap::builder::FalseyValueParser::new())]
    pub https: bool,

    /// File that holds the token for changes; without a token the monitor is read only
    #[arg(long, env = "TRAWL_MONITOR_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,

    /// The token itself; better in a file or in the environment than on the command line
    #[arg(long, env = "TRAWL_MONITOR_TOKEN", hide_env_values = true, hide = true, value_name = "TOKEN")]
    pub token: Option<String>,

    /// RabbitMQ's management API, for example http://user:password@host:15672
    #[arg(long, env = "TRAWL_MANAGEMENT_URL", hide_env_values = true, value_name = "URL")]
    pub management_url: Option<String>,

    /// File that holds the management API's URL, in place of the URL itself
    #[arg(long, env = "TRAWL_MANAGEMENT_URL_FILE", value_name = "FILE")]
    pub management_url_file: Option<PathBuf>,

    /// Folder or s3:// prefix whose children are outputs of jobs, shown even if Redis has forgotten them (repeatable)
    #[arg(long, env = "TRAWL_MONITOR_OUTPUTS", value_delimiter = ',', value_name = "URL")]
    pub outputs: Vec<String>,

    /// Rows of a job that its gallery looks at; some 200 bytes of memory each, for at most 4 jobs at a time
    #[arg(long, default_value_t = 50_000, value_parser = value_parser!(u32).range(100..=1_000_000), value_name = "N")]
    pub gallery_rows: u32,

    /// Open event streams at once; whoever comes later polls
    #[arg(long, default_value_t = 64, value_parser = value_parser!(u16).range(1..=4096), value_name = "N")]
    pub max_streams: u16,

    /// How log lines look; they go to stderr
    #[arg(long, value_enum, default_value_t = LogFormat::Pretty, env = "TRAWL_LOG_FORMAT", value_name = "FORMAT")]
    pub log_format: LogFormat,

    /// Log more: -v what is asked for, -vv how (TRAWL_LOG takes a filter)
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub verbose: u8,

    /// Where the services are.
    #[command(flatten)]
    pub services: ServiceArgs,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_help_leads_with_examples_and_shows_no_secret() {
        Cli::command().debug_assert();
        let help = Cli::command().render_long_help().to_string();
        assert!(help.starts_with("Examples:"), "{help}");
        let cli =
            Cli::try_parse_from(["trawl-monitor", "--outputs", "s3://a,s3://b", "--outputs", "c"]).unwrap();
        assert_eq!(cli.outputs, ["s3://a", "s3://b", "c"]);
        assert_eq!(cli.listen.port(), 8265);
    }
}
