//! What a client asks to spend, from loose JSON to types. The order of the checks is the order of the predecessor's messages.

use crate::token_kinds::{UsageBody, token_kinds};
use domain::{
    access::Caller,
    amount::Tokens,
    charge::Metadata,
    ids::{Model, NameError, OrgId, Provider, UserId},
    money::TokenKinds,
    settings::{ProviderSettings, Settings},
};
use service_kit::problem::Problem;

pub const METADATA_ENTRIES: usize = 16;
/// Of a name and of a value, UTF-8.
pub const METADATA_BYTES: usize = 512;

/// The fields that consume and reserve have in common, as sent.
pub struct SpendFields {
    pub user_id: Option<String>,
    pub org_id: Option<String>,
    pub provider: Option<String>,
    pub model: Option<String>,
    pub tokens: Option<i64>,
    pub usage: Option<UsageBody>,
    pub metadata: Option<Metadata>,
}

/// Well formed; whether the caller may is decided by [`crate::payer`].
#[derive(Debug)]
pub struct SpendRequest {
    pub user_id: UserId,
    pub org_id: Option<OrgId>,
    pub provider: Provider,
    pub model: Option<Model>,
    pub tokens: Tokens,
    pub kinds: TokenKinds,
    pub metadata: Metadata,
}

impl SpendRequest {
    pub fn parse(fields: SpendFields, caller: &Caller, settings: &Settings) -> Result<Self, Problem> {
        let user = named_user(fields.user_id.as_deref(), caller)?;
        let provider = required("provider", fields.provider.as_deref())?;
        let tokens = fields.tokens.unwrap_or(0);
        if tokens <= 0 {
            return Err(Problem::field("tokens", "tokens must be positive"));
        }
        let user_id = user.id()?;
        let org_id = optional_org(fields.org_id.as_deref())?;
        let tokens = amount("tokens", tokens)?;
        let kinds = token_kinds(fields.usage.as_ref(), tokens)?;
        let (provider, provider_settings) = known_provider(provider, settings)?;
        let model = known_model(fields.model.as_deref(), &provider, provider_settings)?;
        let metadata = fields.metadata.unwrap_or_default();
        check_metadata(&metadata)?;
        Ok(Self { user_id, org_id, provider, model, tokens, kinds, metadata })
    }
}

/// A user that was named or is meant; its id is read later than its presence is checked.
pub enum NamedUser<'a> {
    Caller(UserId),
    Text(&'a str),
}

impl NamedUser<'_> {
    pub fn id(&self) -> Result<UserId, Problem> {
        match self {
            Self::Caller(user) => Ok(*user),
            Self::Text(text) => text.parse().map_err(|_| Problem::field("userId", "invalid userId")),
        }
    }
}

/// Absent: the caller, unless that is no user.
pub fn named_user<'a>(text: Option<&'a str>, caller: &Caller) -> Result<NamedUser<'a>, Problem> {
    match (text.map(str::trim), caller.user_id) {
        (None, Some(user)) => Ok(NamedUser::Caller(user)),
        (None | Some(""), _) => Err(Problem::field("userId", "userId is required")),
        (Some(text), _) => Ok(NamedUser::Text(text)),
    }
}

/// Present and not blank, trimmed.
pub fn required<'a>(field: &'static str, text: Option<&'a str>) -> Result<&'a str, Problem> {
    match text.map(str::trim) {
        None | Some("") => Err(Problem::field(field, format!("{field} is required"))),
        Some(text) => Ok(text),
    }
}

/// Blank means none.
pub fn optional_org(text: Option<&str>) -> Result<Option<OrgId>, Problem> {
    match text.map(str::trim) {
        None | Some("") => Ok(None),
        Some(text) => text.parse().map(Some).map_err(|_| Problem::field("orgId", "invalid orgId")),
    }
}

pub fn amount(field: &'static str, amount: i64) -> Result<Tokens, Problem> {
    if amount < 0 {
        return Err(Problem::field(field, format!("{field} must not be negative")));
    }
    Tokens::new(amount).map_err(|_| Problem::field(field, format!("{field} must be at most {}", Tokens::MAX)))
}

/// 400 with the configured names for any other.
pub fn known_provider<'s>(text: &str, settings: &'s Settings) -> Result<(Provider, &'s ProviderSettings), Problem> {
    let provider = Provider::parse(text).ok();
    let known = provider.and_then(|provider| settings.providers.get(&provider).map(|own| (provider, own)));
    known.ok_or_else(|| {
        let allowed = settings.providers.keys().map(ToString::to_string).collect();
        Problem::field_allowed("provider", "provider is unknown", allowed)
    })
}

fn known_model(text: Option<&str>, provider: &Provider, settings: &ProviderSettings) -> Result<Option<Model>, Problem> {
    let Some(text) = text else { return Ok(None) };
    let unknown = || {
        let allowed = settings.models.iter().map(ToString::to_string).collect();
        Problem::field_allowed("model", format!("model is not one of the provider {provider}"), allowed)
    };
    match Model::parse(text) {
        Ok(model) if settings.models.is_empty() || settings.models.contains(&model) => Ok(Some(model)),
        Ok(_) => Err(unknown()),
        Err(NameError::Blank) => Err(Problem::field("model", "model is blank; leave it out instead")),
        Err(_) if !settings.models.is_empty() => Err(unknown()),
        Err(error) => Err(Problem::field("model", format!("model {error}"))),
    }
}

fn check_metadata(metadata: &Metadata) -> Result<(), Problem> {
    let refuse = |message: String| Err(Problem::field("metadata", message));
    if metadata.len() > METADATA_ENTRIES {
        return refuse(format!("metadata has {} entries, at most {METADATA_ENTRIES} are kept", metadata.len()));
    }
    for (name, value) in metadata {
        if name.is_empty() {
            return refuse("a metadata name is empty".into());
        }
        if name.len() > METADATA_BYTES || value.len() > METADATA_BYTES {
            return refuse(format!("a metadata name or value is longer than {METADATA_BYTES} bytes"));
        }
        if !storable(name) || !storable(value) {
            return refuse("metadata contains the character U+0000, which cannot be stored".into());
        }
    }
    Ok(())
}

/// UTF-8.
const LONGEST_REASON_BYTES: usize = 512;

/// Why somebody does something: kept with the event.
pub fn reason(text: &str) -> Result<&str, Problem> {
    if text.len() > LONGEST_REASON_BYTES || !storable(text) {
        return Err(Problem::field("reason", format!("reason must be at most {LONGEST_REASON_BYTES} bytes without U+0000")));
    }
    Ok(text)
}

/// No store keeps U+0000 in text.
pub fn storable(text: &str) -> bool {
    !text.contains('\0')
}

#[cfg(test)]
mod tests {
    use super::*;
    use service_kit::identity::service_caller;

    fn caller() -> Caller {
        Caller { user_id: Some(UserId(uuid::Uuid::from_u128(7))), ..service_caller() }
    }

    fn fields() -> SpendFields {
        SpendFields {
            user_id: None,
            org_id: None,
            provider: Some(" OpenAI ".into()),
            model: None,
            tokens: Some(5),
            usage: None,
            metadata: None,
        }
    }

    fn message(fields: SpendFields) -> String {
        SpendRequest::parse(fields, &caller(), &Settings::default()).unwrap_err().detail().to_owned()
    }

    #[test]
    fn messages_come_in_the_order_of_the_predecessor() {
        let mut wrong =
            SpendFields { user_id: Some(" ".into()), org_id: Some("y".into()), provider: Some("".into()), tokens: Some(0), ..fields() };
        assert_eq!(message(SpendFields { metadata: None, ..copy(&wrong) }), "userId is required");
        wrong.user_id = Some("x".into());
        assert_eq!(message(copy(&wrong)), "provider is required");
        wrong.provider = Some("nope".into());
        assert_eq!(message(copy(&wrong)), "tokens must be positive");
        wrong.tokens = Some(1 << 53);
        assert_eq!(message(copy(&wrong)), "invalid userId");
        wrong.user_id = None;
        assert_eq!(message(copy(&wrong)), "invalid orgId");
        wrong.org_id = Some(String::new());
        assert_eq!(message(copy(&wrong)), "tokens must be at most 9007199254740991");
        wrong.tokens = Some(1);
        assert_eq!(message(copy(&wrong)), "provider is unknown");
    }

    fn copy(fields: &SpendFields) -> SpendFields {
        SpendFields {
            user_id: fields.user_id.clone(),
            org_id: fields.org_id.clone(),
            provider: fields.provider.clone(),
            model: fields.model.clone(),
            tokens: fields.tokens,
            usage: fields.usage.clone(),
            metadata: fields.metadata.clone(),
        }
    }

    #[test]
    fn a_provider_has_one_spelling_and_an_absent_user_is_the_caller() {
        let request = SpendRequest::parse(fields(), &caller(), &Settings::default()).unwrap();
        assert_eq!((request.provider.as_str(), Some(request.user_id)), ("openai", caller().user_id));
    }

    #[test]
    fn metadata_is_bounded_in_entries_and_in_utf8_bytes() {
        let entries = |count: usize| (0..count).map(|index| (index.to_string(), "x".to_owned())).collect::<Metadata>();
        let with =
            |metadata: Metadata| SpendRequest::parse(SpendFields { metadata: Some(metadata), ..fields() }, &caller(), &Settings::default());
        assert!(with(entries(16)).is_ok());
        assert!(with(entries(17)).is_err());
        assert!(with(Metadata::from([("a".into(), "é".repeat(256))])).is_ok());
        assert!(with(Metadata::from([("a".into(), "é".repeat(257))])).is_err());
        assert!(with(Metadata::from([("a".into(), "\0".into())])).is_err());
    }
}
