//! `GET /api/v1/analytics/anomalies`: the current window against the average of those before it.

use crate::{
    error::store_failed,
    query::{UsageQuery, window_of},
    raw_events::{self, Filter},
    routes::{Service, float, instant},
    totals::Totals,
    view::{View, require_provider, view},
    windows::{Window, end_of_minute},
};
use axum::extract::State;
use domain::{
    ids::Provider,
    rollup::{CellValue, Dimension},
};
use serde_json::{Value, json};
use service_kit::{identity::Authenticated, json::StrictQuery, problem::Problem};

pub async fn anomalies(
    State(service): State<Service>,
    Authenticated(caller): Authenticated,
    StrictQuery(query): StrictQuery<UsageQuery>,
) -> Result<axum::Json<Value>, Problem> {
    query.refuse_range()?;
    let provider = query.provider()?;
    let view = view(&*service.accounts, &caller, query.org()?, query.user()?).await?;
    require_provider(&caller, &provider)?;
    let filter = query.filter(&provider, view.user)?;
    let (minutes, baselines) = (query.window_minutes()?, query.baseline_windows()?);
    let threshold = query.threshold_multiplier()?;
    let sample_limit = query.sample_limit()?;
    let now = service.clock.now();
    let windows = consecutive(now, minutes, baselines);
    let tokens = tokens_per_window(&service, &view, &filter, &provider, &windows).await?;
    let (baseline, current) = tokens.split_at(tokens.len().saturating_sub(1));
    let judged = judge(current.iter().sum(), baseline, threshold);
    let start = windows.last().map_or(now, |window| window.from);
    Ok(axum::Json(json!({
        "provider": provider,
        "windowStart": instant(start),
        "windowEnd": instant(now),
        "baselineWindows": baselines,
        "currentTokens": judged.current,
        "baselineAverageTokens": judged.average,
        "ratio": judged.ratio,
        "thresholdMultiplier": threshold,
        "anomaly": judged.anomaly,
        "reason": judged.reason,
        "sampleLimit": sample_limit,
    })))
}

/// Windows of the same length without gap or overlap, oldest first; the last one holds the running minute.
fn consecutive(now: chrono::DateTime<chrono::Utc>, minutes: i64, baselines: i64) -> Vec<Window> {
    let end = end_of_minute(now);
    (0..=baselines).rev().map(|back| window_of(end - chrono::TimeDelta::minutes(minutes * back), minutes)).collect()
}

async fn tokens_per_window(
    service: &Service,
    view: &View,
    filter: &Filter,
    provider: &Provider,
    windows: &[Window],
) -> Result<Vec<i64>, Problem> {
    // A key, or a user with a model, is no dimension of the rollups.
    if filter.key.is_some() || (filter.user.is_some() && filter.model.is_some()) {
        return tokens_from_events(service, view, filter, windows).await;
    }
    let generation = service.usage_store.live_generation().await.map_err(store_failed)?;
    let totals = Totals { store: &*service.usage_store, generation, scopes: view.scopes() };
    let series = match (filter.user, &filter.model) {
        (Some(user), _) => {
            let totals = totals.by_payer(windows, provider).await.map_err(store_failed)?;
            totals.series_of_all(windows, &Dimension::of_user(user, Some(provider))).await
        }
        (None, Some(model)) => totals.series(windows, &Dimension::model(Some(provider), Some(model))).await,
        (None, None) => totals.series_of_all(windows, &Dimension::models_of(provider)).await,
    };
    let series = series.map_err(store_failed)?;
    Ok(series.iter().map(|value| value.tokens).collect())
}

async fn tokens_from_events(service: &Service, view: &View, filter: &Filter, windows: &[Window]) -> Result<Vec<i64>, Problem> {
    let mut tokens = vec![CellValue::default(); windows.len()];
    let (Some(first), Some(last)) = (windows.first(), windows.last()) else { return Ok(Vec::new()) };
    let all = Window { from: first.from, to: last.to };
    for event in raw_events::all(&*service.usage_store, view, filter, all).await? {
        let index = windows.partition_point(|window| window.from <= event.event.occurred_at).saturating_sub(1);
        if let Some(value) = tokens.get_mut(index) {
            value.apply(&event);
        }
    }
    Ok(tokens.iter().map(|value| value.tokens).collect())
}

struct Judged {
    current: i64,
    average: f64,
    ratio: Option<f64>,
    anomaly: bool,
    reason: Option<&'static str>,
}

/// Without a baseline nothing can be out of the ordinary.
fn judge(current: i64, baseline: &[i64], threshold: f64) -> Judged {
    let windows = i64::try_from(baseline.len()).unwrap_or(i64::MAX).max(1);
    let average = float(baseline.iter().sum()) / float(windows);
    let ratio = (average > 0.0).then(|| float(current) / average);
    let anomaly = ratio.is_some_and(|ratio| ratio >= threshold);
    Judged { current, average, ratio, anomaly, reason: ratio.is_none().then_some("no baseline") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_anomaly_is_at_least_the_threshold_times_the_average() {
        let judged = judge(400, &[100, 300], 2.0);
        assert_eq!((judged.average, judged.ratio, judged.anomaly, judged.reason), (200.0, Some(2.0), true, None));
        assert!(!judge(399, &[100, 300], 2.0).anomaly);
    }

    #[test]
    fn without_a_baseline_the_ratio_is_null_and_says_why() {
        let judged = judge(1_000_000, &[0, 0, 0, 0], 1.0);
        assert_eq!((judged.ratio, judged.anomaly, judged.reason), (None, false, Some("no baseline")));
    }

    #[test]
    fn windows_touch_and_do_not_overlap() {
        let now = "2026-11-21T12:00:30.500Z".parse().unwrap();
        let windows = consecutive(now, 60, 4);
        assert_eq!(windows.len(), 5);
        assert!(windows.windows(2).all(|pair| pair[0].to == pair[1].from));
        assert_eq!(windows[4].to, "2026-11-21T12:01:00Z".parse::<chrono::DateTime<chrono::Utc>>().unwrap());
    }
}
