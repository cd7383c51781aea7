-- None is live: its number was smaller.
UPDATE generation SET live = 1 WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM generation WHERE live = 1)
