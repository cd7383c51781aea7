//! The suite of `ports::accounts` on every adapter.

use crate::adapters::on_each_adapter;

on_each_adapter! {
    accounts;
    one:
        a_key_is_found_by_its_hash_with_every_field,
        the_same_hash_again_replaces_nothing,
        only_its_owner_revokes_a_key_and_only_once,
        an_org_begins_with_its_first_admin,
        the_same_org_again_changes_nothing,
        orgs_and_members_come_in_pages_ordered_by_id,
        a_membership_is_put_changed_and_removed,
        tiers_belong_to_users_and_orgs_and_raise_the_revision;
    two:
        the_pepper_is_made_once,
        there_is_one_bootstrap_key,
        the_revision_rises_with_every_change_also_of_two_processes_at_once;
}
