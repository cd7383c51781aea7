//! `weir up`: runs roles until it is told to stop.

use crate::{
    roles::{Role, Roles},
    settings::SettingsArgs,
    wiring::{self, Platform},
};
use anyhow::{Context, Result};
use auth_service::Bootstrap;
use secrecy::ExposeSecret;
use service_kit::{config::Config, serve, telemetry};
use std::{net::SocketAddr, process::ExitCode, time::Duration};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;

/// Longest time that background work may take to finish after the last request.
const DRAIN: Duration = Duration::from_secs(15);

/// Runs the platform, or some of its roles, in this process.
///
/// Without --role all of them: the gateway, the services, the relay and, where no real provider is configured, the provider stubs.
/// Prints `weir ready on http://…` once it serves and `/readyz` says so. Ctrl-C (or SIGTERM) finishes what is under way and exits 0.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  weir up\n  weir up --stores distributed --role token-service,outbox-relay --listen 127.0.0.1:8082")]
pub struct Args {
    #[command(flatten)]
    settings: SettingsArgs,
    /// Address of the listener; by default 127.0.0.1:8080, or the port of the first role
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// Roles of this process: gateway, auth-service, token-service, analytics, config-service, outbox-relay, provider-stubs
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    role: Vec<Role>,
}

pub async fn run(args: Args) -> Result<ExitCode> {
    let roles = Roles::new(&args.role);
    let flags: Vec<(&'static str, String)> = args.listen.iter().map(|listen| ("listen", listen.clone())).collect();
    let mut config = args.settings.load(&flags)?;
    if config.listen == Config::default().listen {
        config.listen = roles.first().default_listen().into();
    }
    let _telemetry = telemetry::init("weir", &config.log)?;
    let listener = listen(&config.listen).await?;
    let address = listener.local_addr()?;
    let platform = Platform::start(config, roles).await?;
    let stop = CancellationToken::new();
    let mut serving = tokio::spawn(serve::serve(listener, platform.router(), stop.clone()));
    let announced = async {
        platform.ready().await;
        match announce(address, platform.bootstrap()) {
            Ok(()) => std::future::pending().await,
            Err(error) => error,
        }
    };
    let early = tokio::select! {
        () = told_to_stop() => None,
        ended = &mut serving => Some(ended),
        error = announced => return Err(error),
    };
    tracing::info!("stopping: no new requests, finishing those under way");
    stop.cancel();
    let ended = match early {
        Some(ended) => ended,
        None => tokio::select! {
            ended = serving => ended,
            () = told_to_stop() => return Ok(ExitCode::FAILURE),
        },
    };
    ended.context("the listener failed")??;
    let finished = platform.stop(DRAIN).await;
    Ok(if finished { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn listen(address: &str) -> Result<TcpListener> {
    let hint = "choose another with --listen or WEIR__LISTEN";
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}; {hint}"))
}

/// The lines that people and scripts wait for. The key is shown this once: it is stored as a hash only.
fn announce(address: SocketAddr, bootstrap: Option<&Bootstrap>) -> Result<()> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    writeln!(out, "weir ready on http://{address}")?;
    if let Some(Bootstrap::Generated(key)) = bootstrap {
        let key = key.expose_secret();
        writeln!(out, "administrator key, shown only now: {key}")?;
        writeln!(out, "try it:")?;
        writeln!(out, "{}", wiring::curl_line(address, key))?;
    }
    Ok(out.flush()?)
}

/// Ctrl-C or SIGTERM. A process whose signals cannot be watched runs until it is killed.
async fn told_to_stop() {
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
