CREATE TEMPORARY TABLE arriving_pool_period (LIKE pool_period) ON COMMIT DROP;
