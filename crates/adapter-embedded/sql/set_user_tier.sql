UPDATE app_user SET tier = ?2 WHERE id = ?1 AND tier IS NOT ?2
