//! Names of buckets. One name per bucket, whatever its parts contain; all buckets of a payer share a hash tag.

use ports::rate_limits::BucketKey;
use std::fmt::Write;

/// `prefix:bucket:{tag}:payer kind:scope:owner:provider:model:limit`. The tag is the payer's id, or the provider for what all payers share,
/// so that a cluster keeps everything of one payer on one node.
pub(crate) fn bucket_name(prefix: &str, key: &BucketKey) -> String {
    let mut name = String::with_capacity(160);
    name.push_str(prefix);
    name.push_str(":bucket:{");
    match key.payer {
        Some(payer) => push_displayed(&mut name, &payer.tenant()),
        None => push_escaped(&mut name, key.provider.as_str()),
    }
    name.push_str("}:");
    name.push_str(key.payer.map_or("ALL", |payer| payer.kind()));
    name.push(':');
    name.push_str(key.scope.as_str());
    name.push(':');
    push_escaped(&mut name, &key.owner);
    name.push(':');
    push_escaped(&mut name, key.provider.as_str());
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
        ids::{OrgId, Payer, Provider, UserId},
        settings::LimitScope,
    };
    use proptest::prelude::*;
    use uuid::Uuid;

    fn key(payer: Option<Payer>, limit: &str, owner: &str, model: Option<&str>) -> BucketKey {
        let provider = Provider::parse("openai").unwrap();
        BucketKey { payer, limit: limit.into(), scope: LimitScope::User, owner: owner.into(), provider, model: model.map(Into::into) }
    }

    #[test]
    fn the_tag_is_the_payer_or_the_provider() {
        let org = Payer::Org(OrgId(Uuid::from_u128(1)));
        assert_eq!(
            bucket_name("weir", &key(Some(org), "user-burst", "me", Some("gpt-4o"))),
            "weir:bucket:{00000000-0000-0000-0000-000000000001}:ORG:USER:me:openai:=gpt-4o:user-burst"
        );
        assert_eq!(bucket_name("weir", &key(None, "all", "", None)), "weir:bucket:{openai}:ALL:USER::openai::all");
    }

    #[test]
    fn text_from_outside_can_neither_add_a_part_nor_move_the_tag() {
        let name = bucket_name("weir", &key(None, "a:b}{c\r\n%", "x y", Some("{ü}")));
        assert_eq!(name, "weir:bucket:{openai}:ALL:USER:x%20y:openai:=%7B%C3%BC%7D:a%3Ab%7D%7Bc%0D%0A%25");
    }

    fn any_key() -> impl Strategy<Value = BucketKey> {
        let payer = prop::option::of((0u128..3, any::<bool>()));
        (payer, "[:a%=]{0,3}", "[:a%=]{0,3}", prop::option::of("[:a%=]{0,2}")).prop_map(|(payer, limit, owner, model)| {
            let payer = payer.map(|(id, org)| (Uuid::from_u128(id), org));
            let payer = payer.map(|(id, org)| if org { Payer::Org(OrgId(id)) } else { Payer::User(UserId(id)) });
            key(payer, &limit, &owner, model.as_deref())
        })
    }

    proptest! {
        #[test]
        fn two_buckets_never_share_a_name(one in any_key(), other in any_key()) {
            prop_assert_eq!(one == other, bucket_name("weir", &one) == bucket_name("weir", &other));
        }
    }
}
