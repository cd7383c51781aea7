//! Whether a whole settings document may be put in force. Single changes are checked at the edge; this guards against everything else.

use domain::settings::Settings;

/// # Errors
/// The first reason why not.
pub fn check(settings: &Settings) -> Result<(), String> {
    if settings.version < 1 {
        return Err(format!("version {} is below 1", settings.version));
    }
    if !settings.tiers.contains_key(&settings.default_tier) {
        return Err("the default tier does not exist".into());
    }
    if settings.money.is_none() && !(settings.prices.is_empty() && settings.plans.is_empty()) {
        return Err("there are prices but no currency".into());
    }
    if let Some((_, reason)) = settings.money.and_then(|money| money.invalid()) {
        return Err(reason);
    }
    let tiers = settings.tiers.values().find_map(|tier| tier.invalid());
    let limits = || settings.limits.values().find_map(|limit| limit.invalid());
    let plans = || settings.plans.values().find_map(|plan| plan.invalid());
    match tiers.or_else(limits).or_else(plans) {
        Some((_, reason)) => Err(reason),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::amount::Tokens;

    #[test]
    fn a_document_that_would_break_the_limits_is_refused() {
        let good = Settings::default();
        assert_eq!(check(&good), Ok(()));
        assert!(check(&Settings { version: 0, ..good.clone() }).is_err());
        assert!(check(&Settings { default_tier: "GONE".into(), ..good.clone() }).is_err());
        let mut broken = good.clone();
        broken.limits.values_mut().for_each(|limit| limit.capacity = Tokens::ZERO);
        assert!(check(&broken).is_err());
        let mut broken = good;
        broken.tiers.values_mut().for_each(|tier| tier.priority = -1);
        assert!(check(&broken).is_err());
    }
}
