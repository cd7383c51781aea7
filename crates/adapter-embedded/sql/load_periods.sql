-- The period of each pool that holds each wanted moment; periods of a pool do not overlap.
SELECT pool_period.*
FROM jsonb_each(?1) AS wanted
CROSS JOIN pool_period
    ON pool_period.payer_kind = wanted.value ->> 'payer_kind'
    AND pool_period.tenant = unhex(wanted.value ->> 'tenant', '-')
    AND pool_period.provider = wanted.value ->> 'provider'
    AND pool_period.starts_at = (
        SELECT max(old.starts_at) FROM pool_period AS old
        WHERE old.payer_kind = wanted.value ->> 'payer_kind' AND old.tenant = unhex(wanted.value ->> 'tenant', '-')
            AND old.provider = wanted.value ->> 'provider' AND old.starts_at <= wanted.value ->> 'moment'
    )
WHERE pool_period.ends_at IS NULL OR wanted.value ->> 'moment' < pool_period.ends_at
