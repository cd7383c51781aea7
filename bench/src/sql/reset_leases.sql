UPDATE outbox_lease SET owner = NULL, lease_until = '-infinity', published_through = 0;
