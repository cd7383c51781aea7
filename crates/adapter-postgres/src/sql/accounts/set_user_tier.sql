WITH put AS (
    INSERT INTO app_user (id, tier) VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET tier = excluded.tier
)
UPDATE installation SET revision = revision + 1;
