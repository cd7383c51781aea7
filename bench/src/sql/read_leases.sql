SELECT count(owner), coalesce(sum(published_through), 0)::bigint FROM outbox_lease;
