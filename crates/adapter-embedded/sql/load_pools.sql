SELECT pool.*
FROM jsonb_each(?1) AS wanted
CROSS JOIN pool
    ON pool.payer_kind = wanted.value ->> 'payer_kind'
    AND pool.tenant = unhex(wanted.value ->> 'tenant', '-')
    AND pool.provider = wanted.value ->> 'provider'
