//! The suite of `ports::settings` on every adapter.

use crate::adapters::on_each_adapter;

on_each_adapter! {
    settings;
    one:
        a_new_installation_has_the_shipped_settings_as_version_1,
        a_change_is_a_new_version_with_author_time_and_change,
        a_change_of_nothing_makes_no_version;
    two:
        changes_of_two_processes_at_once_are_all_kept,
        of_two_currencies_set_at_once_one_stands,
        waiting_ends_with_a_newer_version_or_with_its_time;
}
