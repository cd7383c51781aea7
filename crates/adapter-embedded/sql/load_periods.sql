SELECT pool_period.*
FROM jsonb_each(?1) AS wanted
CROSS JOIN pool_period
    ON pool_period.payer_kind = wanted.value ->> 'payer_kind'
    AND pool_period.tenant = unhex(wanted.value ->> 'tenant', '-')
    AND pool_period.provider = wanted.value ->> 'provider'
    AND pool_period.starts_at = wanted.value ->> 'starts_at'
