CREATE TEMPORARY TABLE touched_pool (payer_is_org boolean, payer_id uuid, provider text COLLATE "C",
    PRIMARY KEY (payer_is_org, payer_id, provider)) ON COMMIT DROP;
