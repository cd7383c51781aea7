//! Names of buckets. One name per bucket, whatever its parts contain; all buckets of a group share a hash tag.

use domain::ids::Payer;
use ports::rate_limits::{BucketKey, Group};
use std::fmt::Write;

/// What is stored under a name, which is part of it: a limit that changes from tokens to running holds starts anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    Amounts,
    Slots,
}

/// `prefix:known:{tag}:kind:epoch`: that the server of this epoch knows what the payer used.
pub(crate) fn mark_name(prefix: &str, payer: Payer, epoch: &str) -> String {
    format!("{prefix}:known:{{{}}}:{}:{epoch}", payer.tenant(), payer.kind())
}

/// `prefix:content:{tag}:group:scope:owner:provider:model:limit`. The tag is the payer's id, or the provider for what all payers share,
/// or the principal and its owner, so that a cluster keeps everything that one request asks of one group on one node.
pub(crate) fn bucket_name(prefix: &str, content: Content, key: &BucketKey) -> String {
    let mut name = String::with_capacity(160);
    name.push_str(prefix);
    name.push_str(match content {
        Content::Amounts => ":bucket:{",
        Content::Slots => ":slots:{",
    });
    push_tag(&mut name, key);
    name.push_str("}:");
    name.push_str(match &key.group {
        Group::Payer(payer) => payer.kind(),
        Group::Shared => "ALL",
        Group::Principal(_) => "NAMED",
    });
    name.push(':');
    name.push_str(key.scope.as_str());
    name.push(':');
    push_escaped(&mut name, &key.owner);
    name.push(':');
    push_escaped(&mut name, provider_of(key));
    name.push(':');
    if let Some(model) = &key.model {
        // No model and an empty name are different buckets.
        name.push('=');
        push_escaped(&mut name, model);
    }
    name.push(':');
    push_escaped(&mut name, &key.limit);
    name
}

/// What decides in a Cluster where a bucket lies.
pub(crate) fn tag(key: &BucketKey) -> String {
    let mut tag = String::with_capacity(48);
    push_tag(&mut tag, key);
    tag
}

fn push_tag(name: &mut String, key: &BucketKey) {
    match &key.group {
        Group::Payer(payer) => push_displayed(name, &payer.tenant()),
        Group::Shared => push_escaped(name, provider_of(key)),
        Group::Principal(principal) => {
            push_escaped(name, principal);
            name.push('/');
            push_escaped(name, &key.owner);
        }
    }
}

fn provider_of(key: &BucketKey) -> &str {
    key.provider.as_ref().map_or("", |provider| provider.as_str())
}

fn push_displayed(name: &mut String, part: &impl std::fmt::Display) {
    // Writing to a String cannot fail.
    let _infallible = write!(name, "{part}");
}

/// Letters, digits, `-`, `_` and `.` as they are, every other byte as `%XX`: separators, braces and spaces cannot be forged.
fn push_escaped(name: &mut String, part: &str) {
    for byte in part.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.') {
            name.push(char::from(byte));
        } else {
            push_displayed(name, &format_args!("%{byte:02X}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::{
        ids::{OrgId, Provider, UserId},
        settings::LimitScope,
    };
    use proptest::prelude::*;
    use uuid::Uuid;

    fn key(group: Group, limit: &str, owner: &str, model: Option<&str>) -> BucketKey {
        let provider = Provider::parse("openai").ok();
        BucketKey { group, limit: limit.into(), scope: LimitScope::User, owner: owner.into(), provider, model: model.map(Into::into) }
    }

    fn name(key: &BucketKey) -> String {
        bucket_name("weir", Content::Amounts, key)
    }

    #[test]
    fn the_tag_is_the_payer_the_provider_or_the_principal_with_its_owner() {
        let org = Payer::Org(OrgId(Uuid::from_u128(1)));
        assert_eq!(
            name(&key(Group::Payer(org), "user-burst", "me", Some("gpt-4o"))),
            "weir:bucket:{00000000-0000-0000-0000-000000000001}:ORG:USER:me:openai:=gpt-4o:user-burst"
        );
        assert_eq!(name(&key(Group::Shared, "all", "", None)), "weir:bucket:{openai}:ALL:USER::openai::all");
        let named = BucketKey { provider: None, ..key(Group::Principal("user:1".into()), "burst", "10.0.0.1", None) };
        assert_eq!(bucket_name("weir", Content::Slots, &named), "weir:slots:{user%3A1/10.0.0.1}:NAMED:USER:10.0.0.1:::burst");
    }

    #[test]
    fn text_from_outside_can_neither_add_a_part_nor_move_the_tag() {
        let forged = key(Group::Shared, "a:b}{c\r\n%", "x y", Some("{ü}"));
        assert_eq!(name(&forged), "weir:bucket:{openai}:ALL:USER:x%20y:openai:=%7B%C3%BC%7D:a%3Ab%7D%7Bc%0D%0A%25");
    }

    fn any_group() -> impl Strategy<Value = Group> {
        prop_oneof![
            (0u128..3).prop_map(|id| Group::Payer(Payer::Org(OrgId(Uuid::from_u128(id))))),
            (0u128..3).prop_map(|id| Group::Payer(Payer::User(UserId(Uuid::from_u128(id))))),
            Just(Group::Shared),
            "[:/}%]{0,2}".prop_map(Group::Principal),
        ]
    }

    fn any_key() -> impl Strategy<Value = BucketKey> {
        (any_group(), "[:a%=/]{0,3}", "[:a%=/]{0,3}", prop::option::of("[:a%=]{0,2}"))
            .prop_map(|(group, limit, owner, model)| key(group, &limit, &owner, model.as_deref()))
    }

    proptest! {
        #[test]
        fn two_buckets_never_share_a_name(one in any_key(), other in any_key()) {
            prop_assert_eq!(one == other, name(&one) == name(&other));
        }
    }
}
