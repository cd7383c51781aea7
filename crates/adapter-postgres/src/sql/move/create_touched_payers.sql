CREATE TEMPORARY TABLE touched_payer (payer_is_org boolean, payer_id uuid, PRIMARY KEY (payer_is_org, payer_id)) ON COMMIT DROP;
