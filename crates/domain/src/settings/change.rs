//! Changes to the settings, one at a time, and what keeps one from standing beside the rest.

use super::{Limit, Plan, ProviderSettings, Settings, Tier};
use crate::{
    ids::Provider,
    money::{Money, Price},
};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// One change to the document; each makes a new version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "SCREAMING_SNAKE_CASE")]
pub enum SettingsChange {
    PutTier { name: String, tier: Tier },
    DeleteTier { name: String },
    PutLimit { name: String, limit: Limit },
    DeleteLimit { name: String },
    PutProvider { provider: Provider, settings: ProviderSettings },
    DeleteProvider { provider: Provider },
    PutMoney { money: Money },
    PutPrice { name: String, price: Price },
    DeletePrice { name: String },
    PutPlan { name: String, plan: Plan },
    DeletePlan { name: String },
}

/// What a change did to the document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SettingsEffect {
    Created,
    Replaced,
    Deleted,
    /// Nothing of that name: a delete that changed nothing.
    Absent,
    /// It stood so already.
    Kept,
    /// Nothing changed.
    Refused(SettingsConflict),
}

impl SettingsEffect {
    /// Whether there is a new version.
    pub const fn changed(&self) -> bool {
        matches!(self, Self::Created | Self::Replaced | Self::Deleted)
    }
}

/// Why a change cannot stand beside the settings that it found.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SettingsConflict {
    #[error("the currency and its minor units are set; costs in another unit could not be added to them")]
    CurrencyIsSet,
    #[error("no currency is set: PUT /api/v1/admin/money first")]
    NoCurrency,
    #[error("the price {0} begins at the same moment for the same model: change or delete it")]
    SameBeginning(String),
    #[error("the {kind} {name} names this provider: delete or change it first")]
    InUse { kind: &'static str, name: String },
    #[error("there is no provider {0} any more")]
    NoProvider(Provider),
}

impl Settings {
    /// Applies a change whose values were checked at the edge and raises the version, unless nothing changed.
    pub fn apply(&mut self, change: SettingsChange) -> SettingsEffect {
        if let Some(conflict) = self.conflict(&change) {
            return SettingsEffect::Refused(conflict);
        }
        let effect = match change {
            SettingsChange::PutTier { name, tier } => put(self.tiers.insert(name, tier)),
            SettingsChange::DeleteTier { name } => delete(self.tiers.remove(&name)),
            SettingsChange::PutLimit { name, limit } => put(self.limits.insert(name, limit)),
            SettingsChange::DeleteLimit { name } => delete(self.limits.remove(&name)),
            SettingsChange::PutProvider { provider, settings } => put(self.providers.insert(provider, settings)),
            SettingsChange::DeleteProvider { provider } => delete(self.providers.remove(&provider)),
            SettingsChange::PutMoney { money } if self.money == Some(money) => SettingsEffect::Kept,
            SettingsChange::PutMoney { money } => put(self.money.replace(money)),
            SettingsChange::PutPrice { name, price } => put(self.prices.insert(name, price)),
            SettingsChange::DeletePrice { name } => delete(self.prices.remove(&name)),
            SettingsChange::PutPlan { name, plan } => put(self.plans.insert(name, plan)),
            SettingsChange::DeletePlan { name } => delete(self.plans.remove(&name)),
        };
        if effect.changed() {
            self.version += 1;
        }
        effect
    }

    /// The currency is set once, before the first price: totals of charges in two units could not be added. Of the prices of a model one
    /// begins at a time. A provider stays while something names it: a limit would be left without anything to limit, a plan with nothing
    /// to sell. Asked here, and not only at the edge, since two administrators may change both at once.
    fn conflict(&self, change: &SettingsChange) -> Option<SettingsConflict> {
        if let Some(provider) = named(change).filter(|provider| !self.providers.contains_key(*provider)) {
            return Some(SettingsConflict::NoProvider(provider.clone()));
        }
        match change {
            SettingsChange::DeleteProvider { provider } => self.user_of(provider),
            SettingsChange::PutMoney { money } => self.money.filter(|known| known != money).map(|_| SettingsConflict::CurrencyIsSet),
            SettingsChange::PutPrice { .. } | SettingsChange::PutPlan { .. } if self.money.is_none() => Some(SettingsConflict::NoCurrency),
            SettingsChange::PutPrice { name, price } => {
                let of = |price: &Price| (price.provider.clone(), price.model.clone(), price.effective_from);
                let same = self.prices.iter().find(|(other, known)| *other != name && of(known) == of(price));
                same.map(|(other, _)| SettingsConflict::SameBeginning(other.clone()))
            }
            _ => None,
        }
    }

    /// The first that names the provider.
    fn user_of(&self, provider: &Provider) -> Option<SettingsConflict> {
        let limits = self.limits.iter().map(|(name, limit)| ("limit", name, limit.provider.as_ref()));
        let plans = self.plans.iter().map(|(name, plan)| ("plan", name, Some(&plan.provider)));
        let mut users = limits.chain(plans).filter(|(_, _, named)| *named == Some(provider));
        users.next().map(|(kind, name, _)| SettingsConflict::InUse { kind, name: name.clone() })
    }
}

/// The provider that must exist for the change to make sense.
const fn named(change: &SettingsChange) -> Option<&Provider> {
    match change {
        SettingsChange::PutLimit { limit, .. } => limit.provider.as_ref(),
        SettingsChange::PutPlan { plan, .. } => Some(&plan.provider),
        SettingsChange::PutPrice { price, .. } => Some(&price.provider),
        _ => None,
    }
}

fn put<T>(previous: Option<T>) -> SettingsEffect {
    if previous.is_some() { SettingsEffect::Replaced } else { SettingsEffect::Created }
}

fn delete<T>(previous: Option<T>) -> SettingsEffect {
    if previous.is_some() { SettingsEffect::Deleted } else { SettingsEffect::Absent }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn price(input_per_million: &str) -> Price {
        let json = format!(r#"{{"provider":"openai","inputPerMillion":"{input_per_million}","outputPerMillion":"1"}}"#);
        serde_json::from_str(&json).unwrap()
    }

    #[test]
    fn what_cannot_stand_beside_the_rest_changes_nothing() {
        let mut settings = Settings::default();
        let shipped = settings.clone();
        let put = |name: &str, price: &Price| SettingsChange::PutPrice { name: name.into(), price: price.clone() };
        assert_eq!(settings.apply(put("first", &price("1"))), SettingsEffect::Refused(SettingsConflict::NoCurrency));
        assert_eq!(settings, shipped);
        let money = |digits| SettingsChange::PutMoney { money: Money { currency: "EUR".parse().unwrap(), minor_unit_digits: digits } };
        assert_eq!(settings.apply(money(2)), SettingsEffect::Created);
        assert_eq!(settings.apply(money(2)), SettingsEffect::Kept);
        assert_eq!(settings.apply(put("first", &price("1"))), SettingsEffect::Created);
        assert_eq!(settings.apply(put("first", &price("2"))), SettingsEffect::Replaced);
        assert_eq!(settings.version, shipped.version + 3);
        let before = settings.clone();
        assert_eq!(settings.apply(money(3)), SettingsEffect::Refused(SettingsConflict::CurrencyIsSet));
        let second = settings.apply(put("second", &price("3")));
        assert_eq!(second, SettingsEffect::Refused(SettingsConflict::SameBeginning("first".into())));
        assert_eq!(settings, before);
    }

    #[test]
    fn a_provider_stays_while_a_limit_or_a_plan_names_it_and_none_is_made_for_one_that_is_gone() {
        let mut settings = Settings::default();
        settings.limits.clear();
        let openai = Provider::parse("openai").unwrap();
        let limit: Limit =
            serde_json::from_str(r#"{"scope":"USER","provider":"openai","capacity":10,"leakRatePerSecond":1,"onOutage":"CLOSED"}"#)
                .unwrap();
        let plan: Plan = serde_json::from_str(r#"{"provider":"openai","tokens":10,"priceMinorUnits":100}"#).unwrap();
        let delete = SettingsChange::DeleteProvider { provider: openai.clone() };
        let in_use = |kind, name: &str| SettingsEffect::Refused(SettingsConflict::InUse { kind, name: name.into() });
        assert_eq!(settings.apply(SettingsChange::PutLimit { name: "slow".into(), limit: limit.clone() }), SettingsEffect::Created);
        assert_eq!(settings.apply(delete.clone()), in_use("limit", "slow"));
        settings.apply(SettingsChange::DeleteLimit { name: "slow".into() });
        settings.apply(SettingsChange::PutMoney { money: Money { currency: "EUR".parse().unwrap(), minor_unit_digits: 2 } });
        assert_eq!(settings.apply(SettingsChange::PutPlan { name: "small".into(), plan }), SettingsEffect::Created);
        assert_eq!(settings.apply(delete.clone()), in_use("plan", "small"));
        settings.apply(SettingsChange::DeletePlan { name: "small".into() });
        assert_eq!(settings.apply(delete), SettingsEffect::Deleted);
        let gone = SettingsEffect::Refused(SettingsConflict::NoProvider(openai));
        assert_eq!(settings.apply(SettingsChange::PutLimit { name: "slow".into(), limit }), gone);
        assert_eq!(settings.apply(SettingsChange::PutPrice { name: "first".into(), price: price("1") }), gone);
    }
}
