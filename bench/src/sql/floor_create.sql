CREATE TABLE floor_charge (LIKE charge INCLUDING ALL);
